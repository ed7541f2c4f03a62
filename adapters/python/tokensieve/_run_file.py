"""The files of an evaluation: what `tokensieve eval --write-cases` made, and run files, whose lines
are those of eval/schema.h."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from typing import Any

from tokensieve._abi import ArgumentError
from tokensieve._config import Fingerprint, Profile
from tokensieve._select import SelectConfig

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What a configuration runs on a prompt of one length."""

    profile: Profile | None = None  # None: dense
    dense_rows: int = 0  # so many last rows see everything
    work: float | None = None  # of a sparse layer, where dense rows count
    chunk: int = 0  # tokens of a prompt that are read at once; 0: all

    @staticmethod
    def parse(line: Json) -> Resolved:
        """From a "resolved" line of a file of cases."""
        chunk = line.get("chunk", 0)
        if line.get("profile") is None:
            return Resolved(chunk=chunk)
        profile = Profile.parse(json.dumps(line["profile"]), line["config"])
        if line.get("always_sparse"):
            profile = profile.map_select(
                lambda select: dataclasses.replace(select, dense_policy="never"))
        return Resolved(profile, line.get("dense_rows", 0), line.get("work"), chunk)


def _read_lines(path: str, text: bytes, remedy: str) -> list[Json]:
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as problem:
            what = f"{path}:{number} is not valid JSON ({problem})"
            raise ArgumentError(f"{what}; {remedy}") from None
        if not isinstance(value, dict):
            raise ArgumentError(f"{path}:{number} is not a JSON object; {remedy}")
        lines.append(value)
    return lines


class Cases:
    """A file that `tokensieve eval --write-cases` made."""

    def __init__(self, path: str) -> None:
        remedy = ("it is not a file of cases of this version: write it again with `tokensieve eval "
                  "--write-cases`")
        with open(path, "rb") as file:
            lines = _read_lines(path, file.read(), remedy)
        if not lines or lines[0].get("type") != "cases" or lines[0].get("format") != 1:
            raise ArgumentError(f"{path} is not a file of cases, format 1 (tokensieve eval "
                                "--write-cases)")
        self.header = lines[0]
        self.cases = [line for line in lines[1:] if line.get("type") == "case"]
        try:
            self.resolved = {(line["config"], line["tokens"]): Resolved.parse(line)
                             for line in lines[1:] if line.get("type") == "resolved"}
            found = {name for name, _ in self.resolved}
            self.names = [config["name"] for config in self.header.get("configs", ())
                          if config["name"] in found]
        except (KeyError, TypeError) as problem:
            raise ArgumentError(f"{path} is damaged ({problem!r}); {remedy}") from None
        if "dense" not in self.names:
            raise ArgumentError(f"{path} has no configurations; {remedy}")

    def choose(self, names: list[str] | None) -> list[str]:
        """The configurations of these names, or all; dense is always there, and first."""
        for name in names or ():
            if name not in self.names:
                raise ArgumentError(f"--config {name!r}; allowed: {', '.join(self.names)} (others "
                                    "run in `tokensieve eval` only, or need other --config there)")
        return ["dense", *(name for name in self.names
                           if name != "dense" and name in (names or self.names))]

    def check(self, model: Fingerprint) -> None:
        """Raises if the cases are of another model."""
        names = {field.name for field in dataclasses.fields(Fingerprint)}
        made_for = self.header.get("model", {}).get("fingerprint", {})
        Profile((), SelectConfig(), model="of the cases", fingerprint=Fingerprint(
            **{key: value for key, value in made_for.items() if key in names})).check(model)


_IDENTITY = ("type", "format", "model", "seed", "tasks", "lengths", "cases", "configs")


def key_of(line: Json, config: str) -> tuple[Any, ...]:
    return line["task"], line["length"], line["case"], config


class Results:
    """A run file (eval/schema.h), for appending; one that exists goes on if it is of this run."""

    def __init__(self, path: str, header: Json) -> None:
        self.path = path
        self._file = open(path, "a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArgumentError(f"another run is writing {path}; wait for it, or name another "
                                "file with -o") from None
        self._file.seek(0)
        text = self._file.read()
        whole = text[:text.rfind(b"\n") + 1]
        lines = _read_lines(path, whole, "name another file with -o")
        if not lines and text and not text.startswith(b'{"type": "run"'):
            raise ArgumentError(f"{path} is not a results file; name another one with -o")
        for key in _IDENTITY if lines else ():
            if lines[0].get(key) != json.loads(json.dumps(header.get(key))):
                raise ArgumentError(f"{path} holds another run ({key} differs); name another "
                                    "file with -o")
        try:
            self.done = {key_of(line, line["config"]) for line in lines
                         if line.get("type") == "result"}
        except (KeyError, TypeError) as problem:
            raise ArgumentError(f"{path} is damaged ({problem!r}); name another file with -o") \
                from None
        self._file.truncate(len(whole))
        if not lines:
            self._write(header)

    def _write(self, line: Json) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def add(self, line: Json) -> None:
        self._write(line)
        self.done.add(key_of(line, line["config"]))


def command_text(words: list[str]) -> str:
    """A command without folders: run files are published."""
    return " ".join(os.path.basename(word) if os.path.isabs(word) else word for word in words)
