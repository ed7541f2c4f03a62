"""Block masks as lists of key tiles: CSR, FlashInfer's BSR, FlashAttention 4's counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokensieve._abi import ArgumentError
from tokensieve._tiles import TILE, Tiles, above_diagonal, checked, place, to_128

Make = Callable[[Any, Tiles], Any]  # BlockMask._of


def from_csr(make: Make, indptr: Any, indices: Any, size: int, seqlen_q: int | None,
             seqlen_kv: int | None) -> Any:
    """BlockMask.from_csr and from_bsr."""
    import numpy as np
    starts, entries = _integers(indptr, "indptr"), _integers(indices, "indices")
    if starts.ndim == entries.ndim == 1:
        starts, entries = starts[None, None], entries[None, None]
    if starts.ndim != 3 or entries.ndim != 3 or starts.shape[:2] != entries.shape[:2]:
        raise ArgumentError(f"indptr has shape {starts.shape}, indices {entries.shape}; allowed: "
                            "[rows + 1] and [entries], or both with [batch, masks] before")
    rows = starts.shape[2] - 1
    if rows < 1:
        raise ArgumentError(f"indptr has {starts.shape[2]} entries; allowed: row blocks + 1")
    grid = Tiles.of(rows, _columns(rows, size, seqlen_kv), size, seqlen_q, seqlen_kv)
    blocks = np.zeros((*starts.shape[:2], grid.rows, grid.columns), dtype=bool)
    for b, h in np.ndindex(*starts.shape[:2]):
        begins = starts[b, h]
        if begins[0] != 0 or begins[-1] > entries.shape[2]:
            raise ArgumentError(
                f"indptr of batch {b}, head {h} goes from {begins[0]} to {begins[-1]}; allowed: "
                f"from 0 to at most the {entries.shape[2]} entries of indices")
        falls = (begins[1:] < begins[:-1]).nonzero()[0]
        if falls.size:
            r = int(falls[0])
            raise ArgumentError(f"indptr descends in {place(b, h, r)}: {begins[r]}, then "
                                f"{begins[r + 1]}")
        for r in range(rows):
            _set(blocks, b, h, r, entries[b, h, begins[r]:begins[r + 1]], grid, size)
    return make(*to_128(blocks, grid, size))


def from_counts(make: Make, some: tuple[Any, Any], full: tuple[Any, Any], names: tuple[str, str],
                seqlen_q: int | None, seqlen_kv: int | None) -> Any:
    """BlockMask.from_fa4 and from_flex: the union of two kinds of lists."""
    import numpy as np
    for name, (count, index) in zip(names, (some, full)):
        if count is None and index is not None:
            raise ArgumentError(f"{name}_idx is given without {name}_cnt; give both or neither")
    lists = [(name, *_list(name, *pair)) for name, pair in zip(names, (some, full))
             if pair[0] is not None]
    if not lists:
        raise ArgumentError(f"neither {names[0]}_cnt nor {names[1]}_cnt is given")
    batch, heads = (max(count.shape[axis] for _, count, _ in lists) for axis in (0, 1))
    rows = lists[0][1].shape[2]
    grid = Tiles.of(rows, _columns(rows, TILE, seqlen_kv), TILE, seqlen_q, seqlen_kv)
    blocks = np.zeros((batch, heads, grid.rows, grid.columns), dtype=bool)
    for name, count, index in lists:
        if count.shape[0] not in (1, batch) or count.shape[1] not in (1, heads) or (
                count.shape[2] != rows):
            raise ArgumentError(f"{name}_cnt has shape {count.shape}; allowed: [1 or {batch}, 1 or "
                                f"{heads}, {rows}]")
        part = np.zeros((*count.shape, grid.columns), dtype=bool)
        for b, h, r in np.ndindex(*count.shape):
            if not 0 <= count[b, h, r] <= index.shape[3]:
                raise ArgumentError(f"{name} of {place(b, h, r)} has {count[b, h, r]} entries; "
                                    f"allowed: 0 to {index.shape[3]}")
            _set(part, b, h, r, index[b, h, r, :count[b, h, r]], grid, TILE)
        if name == names[1]:
            _check_full(part & ~grid.below(), grid)
        if (blocks & part).any():
            b, h, r, c = (int(x[0]) for x in (blocks & part).nonzero())
            raise ArgumentError(f"{place(b, h, r)} names key block {c} in both lists")
        blocks |= part
    return make(*to_128(checked(blocks, grid, TILE), grid, TILE))


def to_csr(blocks: Any) -> tuple[Any, Any]:
    """BlockMask.to_csr."""
    import numpy as np
    counts = blocks.sum(axis=-1)
    indptr = np.zeros((*counts.shape[:2], counts.shape[2] + 1), dtype="int32")
    indptr[..., 1:] = counts.cumsum(axis=-1)
    indices = np.zeros((*counts.shape[:2], int(indptr[..., -1].max())), dtype="int32")
    for b, h in np.ndindex(*counts.shape[:2]):
        listed = blocks[b, h].nonzero()[1]
        indices[b, h, :listed.size] = listed
    return indptr, indices


def to_counts(blocks: Any) -> tuple[Any, Any]:
    """How many of a row are set, and which, ascending, in front."""
    import numpy as np
    order = np.argsort(~blocks, axis=-1, kind="stable")
    return blocks.sum(axis=-1).astype("int32"), order.astype("int32")


def _columns(rows: int, size: int, seqlen_kv: int | None) -> int:
    """As many as rows where no length is given; what is wrong with one, Tiles.of says."""
    if not hasattr(seqlen_kv, "__index__"):
        return rows
    return max(1, -(-int(seqlen_kv) // size))  # type: ignore[call-overload]


def _list(name: str, count: Any, index: Any) -> tuple[Any, Any]:
    counts, indices = _integers(count, f"{name}_cnt"), _integers(index, f"{name}_idx")
    if counts.ndim != 3 or indices.ndim != 4 or indices.shape[:3] != counts.shape or (
            counts.size == 0):
        raise ArgumentError(f"{name}_cnt has shape {counts.shape}, {name}_idx {indices.shape}; "
                            "allowed: [batch, heads, rows] and [batch, heads, rows, entries]")
    return counts, indices


def _set(blocks: Any, b: int, h: int, r: int, listed: Any, grid: Tiles, size: int) -> None:
    """Sets the blocks of a row's list, which is checked."""
    end = int(grid.ends(size)[r]) if listed.size else 0
    wrong = (listed < 0) | (listed >= end)
    if wrong.any():
        c = int(listed[wrong][0])
        if 0 <= c < grid.columns:
            raise above_diagonal(b, h, r, c, grid, size)
        raise ArgumentError(f"{place(b, h, r)} names key block {c}; allowed: 0 to {end - 1}")
    steps = listed[1:] - listed[:-1]
    if (steps <= 0).any():
        at = int((steps <= 0).nonzero()[0][0])
        raise ArgumentError(f"{place(b, h, r)} names key block {int(listed[at + 1])} after "
                            f"{int(listed[at])}; allowed: ascending, each once")
    blocks[b, h, r, listed] = True


def _check_full(wrong: Any, grid: Tiles) -> None:
    if wrong.any():
        b, h, r, c = (int(x[0]) for x in wrong.nonzero())
        raise ArgumentError(f"{place(b, h, r)} names key block {c}, on the diagonal, as a full "
                            "one; full blocks would see later keys")


def _integers(values: Any, name: str) -> Any:
    import numpy as np
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype("int64")
    if array.dtype.kind not in "iu":
        raise ArgumentError(f"{name} has dtype {array.dtype}; allowed: integers")
    if array.dtype == "uint64":  # large ones would wrap around
        array = np.minimum(array, np.uint64(2**63 - 1))
    return array.astype("int64")
