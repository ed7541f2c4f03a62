"""One row of one layer, read by the library. A request never fails because of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from tokensieve import _attend
from tokensieve._abi import UnsupportedError
from tokensieve._attend import NONE, Extras
from tokensieve._call import Settings
from tokensieve._config import Profile
from tokensieve.vllm import counters
from tokensieve.vllm.rows import Row

_log = logging.getLogger("vllm.tokensieve")
_said: set[str] = set()


class Layer(NamedTuple):
    """What does not change from step to step."""

    number: int
    profile: Profile
    scale: float
    softcap: float = 0.0
    sinks: Tensor | None = None
    group: Any = None  # the ranks that share the layer's heads


def read(layer: Layer, row: Row, query: Tensor, keys: Callable[[], tuple[Tensor, Tensor]],
         out: Tensor) -> bool:
    """Attention of a row's queries, as the library decides, and counts it.

    Parameters
    ----------
    layer : Layer
    row : Row
    query, out : tensor [queries, heads, dim]
    keys : callable
        Gives k and v [keys, kv_heads, dim]; called only if they are read.

    Returns
    -------
    bool
        False: the row is vLLM's to compute.
    """
    choice = layer.profile.choose(layer.number, row.queries, row.keys)
    if not choice.is_for_the_library:
        counters.count_dense(choice.reason)
        return False
    settings = Settings.of(choice.select, layer.scale, layer.softcap, blocks=choice.blocks,
                           products=choice.products)
    try:
        k, v = keys()
        _, report = _attend.attend(
            query[None], k[None], v[None], settings,
            NONE if layer.sinks is None else Extras(layer.sinks), out=out[None],
            group=layer.group if choice.select.enabled else None, report=_attend.AT_ONCE)
    except Exception as problem:
        _failed(layer, row, problem)
        return False
    assert report is not None  # asked for
    counters.count_report(report, row.queries, row.keys)
    return True


def _failed(layer: Layer, row: Row, problem: Exception) -> None:
    """Counts a row that vLLM reads instead, and says the same once."""
    counters.count_dense("unsupported" if isinstance(problem, UnsupportedError) else "error")
    text = f"{type(problem).__name__}: {problem}"
    if text not in _said and len(_said) < 64:
        _said.add(text)
        _log.warning("tokensieve: layer %d reads %d of %d tokens densely: %s", layer.number,
                     row.queries, row.keys, text, exc_info=problem)
