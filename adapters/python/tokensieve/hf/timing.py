"""What each attention layer costs and keeps, measured: this waits for the device."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from statistics import fmean
from typing import Any

import torch

from tokensieve import _context
from tokensieve.hf.interface import NAME, replaced


@dataclasses.dataclass
class LayerMeasure:
    """What the attention calls of one layer did inside `measure`.

    Attributes
    ----------
    calls : int
    seconds : float
        Time in attention; on CUDA between events on the current stream.
    keep_ratio : float or None
        Kept tokens / tokens, mean over the sparse calls; None: none was sparse.
    work : float
        Computed (query, key) pairs / causal pairs, of all calls together; 1 where dense.
    block_density : float
        Visited / visible tiles of block masks, mean over all calls by their pairs; 1 without masks.
    """

    calls: int
    seconds: float
    keep_ratio: float | None
    work: float
    block_density: float


@dataclasses.dataclass
class _Call:
    layer: int
    pairs: int  # of a causal sequence
    seconds: Callable[[], float]
    reports: list[tuple[Any, int]]  # of its sequences, with their pairs; empty: dense elsewhere

    def mean(self, name: str) -> float:
        """Of a share that reports have, over their pairs."""
        if not self.reports:
            return 1.0
        return (sum(getattr(report, name) * pairs for report, pairs in self.reports) /
                sum(pairs for _, pairs in self.reports))


@contextlib.contextmanager
def measure() -> Iterator[dict[int, LayerMeasure]]:
    """Measures the attention of models inside the `with`; the result is there when it ends.

    Yields
    ------
    dict of int to LayerMeasure
        By layer index. Calls of "tokensieve" and "sdpa" count, of all models and threads together.

    Examples
    --------
    >>> with tokensieve.hf.measure() as layers:
    ...     model(ids)
    >>> sum(layer.seconds for layer in layers.values())
    """
    calls: list[_Call] = []
    result: dict[int, LayerMeasure] = {}
    try:
        with replaced(lambda function: functools.partial(_timed, function, calls), NAME, "sdpa"):
            yield result
    finally:
        for layer in sorted({call.layer for call in calls}):
            result[layer] = _layer([call for call in calls if call.layer == layer])


def _timed(function: Callable[..., Any], calls: list[_Call], module: Any, query: torch.Tensor,
           key: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    reports: list[tuple[Any, int]] = []
    token = _context.reports.set(reports)
    stop = _start(query.device)
    try:
        return function(module, query, key, *args, **kwargs)
    finally:
        _context.reports.reset(token)
        queries, keys = query.shape[2], key.shape[2]
        pairs = queries * keys - queries * (queries - 1) // 2
        calls.append(_Call(getattr(module, "layer_idx", -1), pairs, stop(), reports))


def _start(device: torch.device) -> Callable[[], Callable[[], float]]:
    """Starts a clock: stop() ends it, and what that returns gives the seconds."""
    if device.type != "cuda":
        begin = time.perf_counter()

        def stop_host() -> Callable[[], float]:
            seconds = time.perf_counter() - begin
            return lambda: seconds
        return stop_host
    first, last = (torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
                   for _ in range(2))
    first.record(torch.cuda.current_stream(device))

    def stop_device() -> Callable[[], float]:
        last.record(torch.cuda.current_stream(device))

        def seconds() -> float:
            last.synchronize()
            return first.elapsed_time(last) * 1e-3
        return seconds
    return stop_device


def _layer(calls: list[_Call]) -> LayerMeasure:
    kept = [report.keep_ratio for call in calls for report, _ in call.reports
            if report.path == "sparse"]
    pairs = sum(call.pairs for call in calls)
    work, density = (sum(call.pairs * call.mean(name) for call in calls) / pairs
                     for name in ("work", "block_density"))
    return LayerMeasure(len(calls), sum(call.seconds() for call in calls),
                        fmean(kept) if kept else None, work, density)
