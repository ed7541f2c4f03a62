"""What calls return beside tensors."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from tokensieve import _abi

PATHS = ("dense", "sparse")  # position: enum tokensieve_path


@dataclasses.dataclass(frozen=True)
class Report:
    """What a call did.

    Attributes
    ----------
    path : {"dense", "sparse"}
        "sparse" if any sequence ran sparse.
    reason : str
        Why the first dense sequence ran dense, or "".
    keep_count : int
        Kept tokens of all sequences together.
    keep_ratio : float
        keep_count / tokens of all sequences.
    work : float
        Computed (query, key) pairs, mean over the heads, / causal pairs; counted.
    block_density : float
        Visited / visible tiles of the pass that a block mask steers; 1 without.
    stage_ns : dict of str to int
        Wall time by stage (CPU; zeros on CUDA).
    backend, isa : str
        What ran.
    products : {"exact", "split", "bf16"}
        How the two products were computed.
    products_reason : str
        Why they are exact although others were asked for, or "".
    """

    path: str
    reason: str
    keep_count: int
    keep_ratio: float
    work: float
    stage_ns: dict[str, int]
    backend: str
    isa: str
    block_density: float = 1.0
    products: str = "exact"
    products_reason: str = ""


@dataclasses.dataclass(frozen=True)
class KeptTokens:
    """The tokens that a sparse layer would keep.

    Attributes
    ----------
    indices : int32 array [batch, num_sets, capacity]
        Ascending positions; the first ``count[b]`` of a row count. No sets if ``reason`` is given.
    count : int64 array [batch]
        Kept tokens of each sequence; the number of keys: the sequence runs dense.
    reason : str
        Why every sequence runs dense, or "".
    """

    indices: Any
    count: Any
    reason: str = ""


@functools.lru_cache(maxsize=1)
def _stage_names() -> tuple[str, ...]:
    lib = _abi.library()
    return tuple(lib.tokensieve_stage_name(i).decode() for i in range(_abi.NUM_STAGES))


@functools.lru_cache(maxsize=None)
def _isa_name(isa: int) -> str:
    return _abi.library().tokensieve_isa_name(isa).decode()


def report_of(c: Any, backend: int) -> Report:
    """The C struct as a Report."""
    return Report(PATHS[c.path], _abi.reason_text(c.reason), c.keep_count, c.keep_ratio,
                  c.work, dict(zip(_stage_names(), c.stage_ns)),
                  _abi.BACKENDS[backend], _isa_name(c.isa), c.block_density,
                  _abi.PRODUCTS[c.products], _abi.products_reason_text(c.products_reason))
