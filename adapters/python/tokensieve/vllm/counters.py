"""What a process of a server did: counted for the log, for /metrics and for `stats`."""

from __future__ import annotations

import atexit
import collections
import copy
import dataclasses
import functools
import logging
import threading
import time
from typing import Any

from tokensieve._results import Report

_log = logging.getLogger("vllm.tokensieve")


@dataclasses.dataclass
class ServerStats:
    """What this process did since it started. A row is one sequence's part of a step, in one layer.

    Attributes
    ----------
    sparse_rows : int
        Rows that were read sparsely.
    dense_rows : Counter of str
        The others, by why they were not.
    keys, kept_keys : int
        Tokens that sparse rows could see, and those that they kept.
    pairs, computed_pairs : float
        Causal (query, key) pairs of sparse rows, and those that were computed.
    """

    sparse_rows: int = 0
    dense_rows: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    keys: int = 0
    kept_keys: int = 0
    pairs: float = 0.0
    computed_pairs: float = 0.0

    def __str__(self) -> str:
        text = f"{self.sparse_rows} sparse rows"
        if self.sparse_rows:
            text += (f" (kept {self.kept_keys / self.keys:.1%} of the tokens, work "
                     f"{self.computed_pairs / self.pairs:.1%})")
        dense = ", ".join(f"{count} {reason}" for reason, count in self.dense_rows.most_common())
        return f"{text}; dense rows: {dense or 'none'}"


_stats = ServerStats()
_lock = threading.Lock()
_said_at, _said_rows = time.monotonic(), 0


def stats() -> ServerStats:
    """What this process did so far; of a server that is the engine's or a worker's process.

    Returns
    -------
    ServerStats
        A copy.
    """
    with _lock:
        return copy.deepcopy(_stats)


def count_dense(reason: str, rows: int = 1) -> None:
    with _lock:
        _stats.dense_rows[reason] += rows
    if metrics := _metrics():
        metrics["dense_rows"].labels(reason).inc(rows)


def count_report(report: Report, queries: int, keys: int) -> None:
    """Counts a row that the library computed."""
    if report.path != "sparse":
        return count_dense(report.reason)
    pairs = queries * keys - queries * (queries - 1) // 2
    added = {"sparse_rows": 1, "keys": keys, "kept_keys": report.keep_count, "pairs": pairs,
             "computed_pairs": report.work * pairs}
    with _lock:
        for name, value in added.items():
            setattr(_stats, name, getattr(_stats, name) + value)
    if metrics := _metrics():
        for name, value in added.items():
            metrics[name].inc(value)


def say(every: float = 0.0) -> None:
    """A line in the log if rows were read sparsely since the last one, `every` seconds ago."""
    global _said_at, _said_rows
    now = time.monotonic()
    with _lock:
        if now - _said_at < every or _stats.sparse_rows == _said_rows:
            return
        _said_at, _said_rows = now, _stats.sparse_rows
    _log.info("tokensieve: %s", _stats)


atexit.register(say)


@functools.lru_cache(maxsize=1)
def _metrics() -> dict[str, Any] | None:
    """Counters of prometheus_client, which vLLM shows at /metrics if its processes share them."""
    try:
        from prometheus_client import Counter
    except ImportError:  # without vLLM
        return None
    texts = {"sparse_rows": "Rows of steps and layers that were read sparsely.",
             "keys": "Tokens that sparse rows could see.",
             "kept_keys": "Tokens that sparse rows kept.",
             "pairs": "Causal (query, key) pairs of sparse rows.",
             "computed_pairs": "Pairs of sparse rows that were computed."}
    metrics: dict[str, Any] = {name: Counter(f"tokensieve:{name}", text)
                               for name, text in texts.items()}
    metrics["dense_rows"] = Counter("tokensieve:dense_rows", "Other rows, by why they were not.",
                                    ["reason"])
    return metrics
