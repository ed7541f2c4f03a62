"""The CPUs that vLLM gives to a process.

vLLM binds each of OpenMP's threads to a CPU of its own, the main thread too. Threads inherit that:
all of the library's would share one CPU.
"""

from __future__ import annotations

import os
import re

# How vLLM tells GNU's, Intel's and other OpenMP libraries: a list of CPUs.
_LISTS = {"GOMP_CPU_AFFINITY": r"([\d ]+)", "KMP_AFFINITY": r".*proclist=\[([\d,]+)\].*",
          "OMP_PLACES": r"\{([\d,]+)\}"}


def of_process() -> frozenset[int]:
    """The CPUs of OpenMP's threads; none: they are not bound, or not by a plain list."""
    for name, pattern in _LISTS.items():
        if found := re.fullmatch(pattern, os.environ.get(name, "")):
            return frozenset(map(int, re.findall(r"\d+", found[1])))
    return frozenset()
