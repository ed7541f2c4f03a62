"""A headless Chromium, driven through its debugging pipe with the standard library alone."""

import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Escape": 27,
    "Tab": 9,
    "Enter": 13,
    " ": 32,
}


def find_chromium():
    """Path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One browser with one page. `problems` and `requests` fill up while it runs.

    problems : console errors and uncaught exceptions, as text
    requests : every address that the page asked for
    """

    def __init__(self, program, timeout=300):
        self.timeout = timeout
        self.problems, self.requests = [], []
        self._loaded = False
        self._next, self._buffer, self._answers = 0, b"", {}
        self._home = tempfile.TemporaryDirectory(prefix="tokensieve-chromium-")
        self._process = self._start(program)
        target = self.call("Target.createTarget", url="about:blank", session=None)["targetId"]
        self._session = self.call(
            "Target.attachToTarget", targetId=target, flatten=True, session=None
        )["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _start(self, program):
        from_here, self._write = os.pipe()
        self._read, to_here = os.pipe()

        def connect():  # the browser reads commands from 3 and writes to 4
            read, write = os.dup(from_here), os.dup(to_here)
            os.dup2(read, 3)
            os.dup2(write, 4)

        process = subprocess.Popen(
            # Containers have no user namespaces for the sandbox and a small /dev/shm.
            [
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--hide-scrollbars",
                f"--user-data-dir={self._home.name}",
                "--remote-debugging-pipe",
            ],
            preexec_fn=connect,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_here)
        os.close(to_here)
        return process

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.call("Browser.close", session=None)
            self._process.wait(10)
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)
        # Helper processes may still be writing their profile for a moment.
        shutil.rmtree(self._home.name, ignore_errors=True)
        self._home._finalizer.detach()

    def call(self, method, session="page", **parameters):
        self._next += 1
        message = {"id": self._next, "method": method, "params": parameters}
        if session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self.timeout
        while self._next not in self._answers:
            self._receive(deadline)
        answer = self._answers.pop(self._next)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _receive(self, deadline):
        ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
        data = os.read(self._read, 1 << 20) if ready else b""
        if not data:
            raise RuntimeError("Chromium closed its pipe" if ready else "Chromium does not answer")
        *messages, self._buffer = (self._buffer + data).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._on_event(message["method"], message["params"])

    def _on_event(self, method, event):
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.problems.append(" ".join(str(a.get("value", "?")) for a in event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.problems.append(event["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])

    def open(self, path):
        self._loaded = False
        self.call("Page.navigate", url=pathlib.Path(path).resolve().as_uri())
        deadline = time.monotonic() + self.timeout
        while not self._loaded:
            self._receive(deadline)

    def evaluate(self, expression):
        """The value of a JavaScript expression; a raised error raises here."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(
                answer["exceptionDetails"]["exception"].get("description", expression)
            )
        return answer["result"].get("value")

    def wait_for(self, condition):
        """Until a JavaScript expression holds: what the page does by itself takes a moment."""
        deadline = time.monotonic() + self.timeout
        while not self.evaluate(condition):
            if time.monotonic() > deadline:
                raise RuntimeError(f"still not so: {condition}")
            time.sleep(0.05)

    def press(self, *keys):
        for key in keys:
            event = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
            self.call("Input.dispatchKeyEvent", type="keyDown", **event)
            self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def resize(self, width, height):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def emulate(self, scheme, media=""):
        self.call(
            "Emulation.setEmulatedMedia",
            media=media,
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def screenshot(self, path):
        shot = self.call("Page.captureScreenshot", format="png")
        pathlib.Path(path).write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path):
        paper = self.call(
            "Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69
        )
        pathlib.Path(path).write_bytes(base64.b64decode(paper["data"]))
