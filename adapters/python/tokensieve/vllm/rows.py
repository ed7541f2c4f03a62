"""Which rows of a step a layer may read sparsely. A row is one sequence's part of a step.

Each row is judged by itself, never by its place in the batch or its neighbours: answers must not
depend on who else is being served. Only host tensors are read.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Row(NamedTuple):
    """Its place and tokens in the step, and the sequence's length with all that came before."""

    place: int
    begin: int
    end: int
    keys: int

    @property
    def queries(self) -> int:
        return self.end - self.begin


class Run(NamedTuple):
    """Neighbouring rows, with metadata of vLLM's own for them alone."""

    begin: int
    end: int
    metadata: Any


class Step:
    """One step of the scheduler, split by rows.

    Parameters
    ----------
    common : CommonAttentionMetadata
    build : callable
        Makes vLLM's metadata of a part of `common`.
    """

    def __init__(self, common: Any, build: Callable[[Any], Any]) -> None:
        self._common, self._build = common, build
        self._starts: list[int] = common.query_start_loc_cpu.tolist()
        self._rows = _rows(common, self._starts)
        self._runs: dict[tuple[int, ...], list[Run]] = {}
        self.prompts: list[Row] = []  # rows that a layer may read sparsely
        self.dense: collections.Counter[str] = collections.Counter()  # why the others are not
        told = common.is_prefilling  # None where vLLM has cut sequences into other rows
        prefilling = None if told is None else told.tolist()
        for row in self._rows:
            reason = _reason(common, row, prefilling)
            if reason:
                self.dense[reason] += 1
            else:
                self.prompts.append(row)

    def without(self, sparse: Iterable[Row]) -> list[Run]:
        """Runs of all rows but these."""
        left_out = {row.place for row in sparse}
        key = tuple(row.place for row in self._rows if row.place not in left_out)
        if key not in self._runs:  # layers of one step ask for the same
            self._runs[key] = [self._run(first, last) for first, last in _spans(key)]
        return self._runs[key]

    def _run(self, first: int, last: int) -> Run:
        """Rows first to last - 1 as a batch of their own."""
        begin, end = self._starts[first], self._starts[last]
        common = self._common
        changes: dict[str, Any] = {
            "num_reqs": last - first, "num_actual_tokens": end - begin,
            "max_query_len": max(b - a for a, b in zip(self._starts[first:last],
                                                       self._starts[first + 1:last + 1])),
            "query_start_loc": common.query_start_loc[first:last + 1] - begin,
            "query_start_loc_cpu": common.query_start_loc_cpu[first:last + 1] - begin,
            "slot_mapping": common.slot_mapping[begin:end]}
        for name in ("seq_lens", "seq_lens_cpu_upper_bound", "block_table_tensor", "is_prefilling"):
            value = getattr(common, name)
            changes[name] = None if value is None else value[first:last]
        for field in dataclasses.fields(common):
            if field.name.startswith("_"):  # kept by vLLM, of the whole batch
                changes[field.name] = None
        if common.positions is not None:
            changes["positions"] = common.positions[begin:end]
        return Run(begin, end, self._build(common.replace(**changes)))


def _rows(common: Any, starts: list[int]) -> list[Row]:
    """All rows, without the padding of the batch, which has no queries."""
    lengths = common.seq_lens_cpu_upper_bound  # exact while prompts are read
    keys = [0] * common.num_reqs if lengths is None else lengths.tolist()
    return [Row(i, starts[i], starts[i + 1], keys[i]) for i in range(common.num_reqs)
            if starts[i] < starts[i + 1]]


def _reason(common: Any, row: Row, prefilling: list[bool] | None) -> str:
    """Why no layer reads a row sparsely, or ""."""
    if prefilling is None:
        return "rows of vLLM's own"
    if not prefilling[row.place]:
        return "decode"  # also tokens that are verified, or computed again after preemption
    if common.causal is not True:
        return "not causal"
    if (common.mm_req_doc_ranges or {}).get(row.place):
        return "bidirectional tokens"
    if common.rswa_prefix_lens is not None:
        return "sliding layer"
    if common.dcp_local_seq_lens is not None:
        return "context parallel"
    return "unknown length" if row.keys < row.queries else ""


def _spans(indices: Iterable[int]) -> list[tuple[int, int]]:
    """[first, last) of neighbours among ascending indices."""
    spans: list[tuple[int, int]] = []
    for i in indices:
        if spans and spans[-1][1] == i:
            spans[-1] = spans[-1][0], i + 1
        else:
            spans.append((i, i + 1))
    return spans
