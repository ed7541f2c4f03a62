"""SelectConfig: which tokens a sparse layer keeps, and what the other rows get."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from tokensieve import _abi
from tokensieve._fields import Fields


@dataclasses.dataclass(frozen=True)
class SelectConfig(Fields):
    """Which tokens a sparse layer keeps, and what the rows of dropped tokens get.

    Fields and defaults are those of the C++ struct (``tokensieve/select.h``); enumerations are
    strings. Values are checked when the object is made.

    Parameters
    ----------
    enabled : bool
        False: dense attention.
    budget : {"tau", "keep_ratio", "keep_count"}
        How many prefix tokens are kept.
    tau : float
        [0, 1): share of score mass that may be dropped. 0 runs dense.
    keep_ratio : float
        (0, 1]: kept share of the prefix.
    keep_count : int
        Kept prefix tokens.
    obs_window : int
        1 to 4096 last queries that score the prefix; always kept.
    pool_width : int
        Odd smoothing width, 1 to 1023.
    min_keep : int
        Floor on the kept prefix tokens.
    protect_first : int
        First tokens that are always kept.
    min_drop : float
        [0, 1): dense unless this share of the prefix is dropped.
    share : {"head", "kv", "layer"}
        Which heads have a set of kept tokens in common.
    fill : {"zero", "local"}
        What dropped rows get: zeros, or attention over the sinks and a window of neighbours.
    queries : {"kept", "all"}
        "kept" drops queries with their keys (whole prompts), "all" only keys before the chunk.
    local_window : int
        Neighbours of local fill, a multiple of 64.
    sinks : int
        First tokens that every row of local fill sees, 0 to 64.
    arithmetic : {"fp32", "reference_rounding"}
        "reference_rounding" rounds scores to bf16 where the paper's code does.
    dense_policy : {"break_even", "never"}
        "break_even" runs dense when sparse cannot win.

    Raises
    ------
    ArgumentError
        A value is outside what is allowed (also a ValueError).
    """

    enabled: bool = True
    budget: str = "tau"
    tau: float = 0.005
    keep_ratio: float = 0.2
    keep_count: int = 1024
    obs_window: int = 128
    pool_width: int = 7
    min_keep: int = 1024
    protect_first: int = 0
    min_drop: float = 0.0
    share: str = "head"
    fill: str = "zero"
    queries: str = "kept"
    local_window: int = 512
    sinks: int = 4
    arithmetic: str = "fp32"
    dense_policy: str = "break_even"
    _c: ClassVar[tuple[str, Any]] = ("select", _abi.Select)

    __hash__ = Fields.__hash__
