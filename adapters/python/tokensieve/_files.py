"""Where the package finds data: what is shipped with it, and what a set-up put into the cache."""

from __future__ import annotations

import os
import pathlib

_PACKAGE = pathlib.Path(__file__).resolve().parent


def shipped(name: str) -> pathlib.Path:
    """A shipped file or folder: beside this file, or in the checkout that holds it."""
    installed = _PACKAGE / name
    return installed if installed.exists() else _PACKAGE.parents[2] / name


def cache() -> pathlib.Path:
    """The cache folder of setup/fetch.py."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("TOKENSIEVE_CACHE") or pathlib.Path(base) / "tokensieve")
