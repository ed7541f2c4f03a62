"""`import tokensieve.ops` registers `torch.ops.tokensieve.attention` for graphs of torch.compile.

`tokensieve.attention` calls it by itself inside torch.compile, where it does not break the graph.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from torch import Tensor

from tokensieve import _attention
from tokensieve._abi import ArgumentError
from tokensieve._config import SelectConfig

__all__ = ["attention"]


@torch.library.custom_op("tokensieve::attention", mutates_args=(), device_types=("cpu", "cuda"))
def attention(q: Tensor, k: Tensor, v: Tensor, sink_logits: Tensor | None = None,
              select: str = "", sm_scale: float | None = None, softcap: float = 0.0,
              causal: bool = True, layout: str = "bshd", backend: str = "auto") -> Tensor:
    """:func:`tokensieve.attention` with its parameters and errors; forward only.

    Parameters
    ----------
    q : Tensor [batch, seqlen_q, num_q_heads, head_dim]
        With ``layout="bhsd"`` all tensors are [batch, heads, seq, head_dim].
    k, v : Tensor [batch, seqlen_kv, num_kv_heads, head_dim]
    sink_logits : Tensor [num_q_heads], optional
    select : str
        ``SelectConfig(...).text``; "": dense.

    Returns
    -------
    Tensor
        Contiguous, of q's shape.

    Raises
    ------
    ArgumentError
        A shape, type, device or value is wrong, or a tensor needs gradients.
    UnsupportedError
        Nothing in this build or on this device can do it.
    """
    with torch.no_grad():
        return _attention.attend(q, k, v, _select(select), sm_scale, softcap, sink_logits, causal,
                                 layout, backend, None, False, False)[0]


@attention.register_fake
def _(q: Tensor, *_: Any, **__: Any) -> Tensor:
    return q.new_empty(q.shape)


@functools.lru_cache(maxsize=64)
def _select(text: str) -> SelectConfig | None:
    try:
        return SelectConfig(**json.loads(text)) if text else None
    except (ValueError, TypeError) as problem:
        raise ArgumentError(f"select is {text!r}: {problem}; allowed: SelectConfig(...).text") \
            from None


def _refuse_gradients(*_: Any, **__: Any) -> None:
    raise ArgumentError(_attention.FORWARD_ONLY)


attention.register_autograd(_refuse_gradients, setup_context=_refuse_gradients)
