"""The library's threads, and each thread's memory, for calls on the CPU."""

from __future__ import annotations

import contextlib
import ctypes as C
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from tokensieve import _abi
from tokensieve._abi import ArgumentError


class _Pool:
    """The library's threads; one call at a time uses them, others wait."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted = 0  # 0: as many as torch uses, or the process may
        self.cpus: frozenset[int] = frozenset()  # that they may use; none: those of their maker
        self.size = 0
        self.handle = _abi.PTR()
        self.executor: Any = None

    def num_threads(self) -> int:
        if self.wanted:
            return self.wanted
        torch = sys.modules.get("torch")
        return torch.get_num_threads() if torch else len(os.sched_getaffinity(0))

    def get(self, threads: int) -> Any:
        """The executor; call with the lock held."""
        if self.size != threads:
            if self.handle:
                _abi.library().tokensieve_thread_pool_free(self.handle)
            self.size, self.handle, self.executor = 0, _abi.PTR(), _abi.new(_abi.Executor)
            with _bound_to(self.cpus):  # threads inherit it
                _abi.call("thread_pool_create", threads, C.byref(self.handle))
            _abi.library().tokensieve_thread_pool_executor(self.handle, C.byref(self.executor))
            self.size = threads
        return self.executor


@contextlib.contextmanager
def _bound_to(cpus: frozenset[int]) -> Iterator[None]:
    """Inside, this thread may use these CPUs; where that is not allowed, those of before."""
    before = os.sched_getaffinity(0) if cpus else set()
    with contextlib.suppress(OSError):
        if cpus:
            os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        if cpus:
            os.sched_setaffinity(0, before)


pool = _Pool()
_local = threading.local()


def _forget_pool() -> None:
    """In a forked child the workers do not exist, and the lock may be held for ever."""
    wanted, cpus = pool.wanted, pool.cpus
    pool.__init__()  # type: ignore[misc]
    pool.wanted, pool.cpus = wanted, cpus


os.register_at_fork(after_in_child=_forget_pool)


def set_num_threads(count: int) -> None:
    """Sets how many threads CPU calls use.

    Parameters
    ----------
    count : int
        0 (default): as many as torch uses, or without torch as the process may.

    Raises
    ------
    ArgumentError
        count is not an integer from 0 to 1024.
    """
    if not isinstance(count, int) or not 0 <= count <= 1024:
        raise ArgumentError(f"count is {count!r}; allowed: 0 to 1024")
    pool.wanted = count


def workspace(size: int) -> tuple[Any, int]:
    """This thread's memory."""
    space = getattr(_local, "space", None)
    if space is None or len(space) < size:
        _local.space = None  # freed before the larger one is allocated
        space = _local.space = (C.c_char * size)()
    return space, size
