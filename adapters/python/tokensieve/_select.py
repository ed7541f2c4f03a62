"""SelectConfig: which tokens a sparse layer keeps, and what the other rows get."""

from __future__ import annotations

import ctypes as C
import dataclasses
import functools
import itertools
from typing import Any, ClassVar

from tokensieve import _abi
from tokensieve._abi import ArgumentError


@functools.lru_cache(maxsize=None)
def words(field: str) -> tuple[str, ...]:
    """The values of a field that is an enumeration, in the library's order; () for others."""
    word = _abi.library().tokensieve_select_word
    found = (word(field.encode(), i) for i in itertools.count())
    return tuple(w.decode() for w in itertools.takewhile(lambda w: w is not None, found))


@dataclasses.dataclass(frozen=True)
class SelectConfig:
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
    text: ClassVar[str]  # as JSON
    _hash: ClassVar[int]

    def __post_init__(self) -> None:
        shape = _abi.new(_abi.Shape)
        shape.seqlen_q = shape.seqlen_kv = shape.num_q_heads = shape.num_kv_heads = 1
        shape.head_dim = 16
        plan, select = _abi.PTR(), self._to_c()
        _abi.call("make_plan", C.byref(shape), C.byref(select), None, C.byref(plan))
        _abi.library().tokensieve_plan_free(plan)
        # Plans are looked up by the hash at each call. Compiled graphs hold the text.
        object.__setattr__(self, "_hash", hash(dataclasses.astuple(self)))
        object.__setattr__(self, "text", _abi.text("select_to_json", C.byref(select)))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> Any:  # hashes of strings differ between processes
        return SelectConfig, dataclasses.astuple(self)

    def _to_c(self) -> Any:
        select = _abi.new(_abi.Select)
        for name, kind in _abi.Select._fields_[1:-1]:  # type: ignore[misc]
            value, allowed = getattr(self, name), words(name)
            if allowed and value not in allowed:
                raise ArgumentError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
            is_integer = not allowed and kind is not _abi.F64 and name != "enabled"
            if is_integer and not (isinstance(value, int) and not isinstance(value, bool)):
                raise ArgumentError(f"{name} is {value!r}; allowed: an integer")
            try:
                setattr(select, name, allowed.index(value) if allowed else value)
            except TypeError:
                raise ArgumentError(f"{name} is {value!r}; allowed: a number") from None
            if is_integer and getattr(select, name) != value:
                raise ArgumentError(f"{name} is {value}; that is too large")
        return select

    @staticmethod
    def _from_c(select: Any) -> SelectConfig:
        values = {field.name: getattr(select, field.name)
                  for field in dataclasses.fields(SelectConfig)}
        values = {name: words(name)[value] if words(name) else value
                  for name, value in values.items()}
        return SelectConfig(**{**values, "enabled": bool(select.enabled)})
