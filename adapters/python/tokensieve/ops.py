"""`import tokensieve.ops` registers `torch.ops.tokensieve.attention` and `attention_varlen` for
graphs of torch.compile.

`tokensieve.attention` and `attention_varlen` call them by themselves inside torch.compile, where
they do not break the graph. Settings travel as text: torch.compile guards strings by their value,
objects by their identity.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from torch import Tensor

from tokensieve import _attend
from tokensieve._abi import ArgumentError
from tokensieve._attend import Extras
from tokensieve._blocks import BlockConfig
from tokensieve._call import Settings
from tokensieve._select import SelectConfig

__all__ = ["attention", "attention_varlen"]


@torch.library.custom_op("tokensieve::attention", mutates_args=(), device_types=("cpu", "cuda"))
def attention(q: Tensor, k: Tensor, v: Tensor, sink_logits: Tensor | None = None,
              select: str = "", sm_scale: float | None = None, softcap: float = 0.0,
              causal: bool = True, layout: str = "bshd", backend: str = "auto",
              kv_indices: Tensor | None = None, blocks: str = "",
              products: str = "auto") -> Tensor:
    """:func:`tokensieve.attention` with its parameters and errors; forward only.

    Parameters
    ----------
    q : Tensor [batch, seqlen_q, num_q_heads, head_dim]
        With ``layout="bhsd"`` all tensors are [batch, heads, seq, head_dim].
    k, v : Tensor [batch, seqlen_kv, num_kv_heads, head_dim]
    sink_logits : Tensor [num_q_heads], optional
    select : str
        ``SelectConfig(...).text``; "": dense.
    kv_indices : Tensor [batch, seqlen_kv], optional
    blocks : str
        ``BlockConfig(...).text``; "": every tile.
    products : str

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
    settings = Settings.of(_config(SelectConfig, "select", select), sm_scale, softcap, causal,
                           layout, backend, _config(BlockConfig, "blocks", blocks), products)
    with torch.no_grad():
        return _attend.attend(q, k, v, settings, Extras(sink_logits, kv_indices=kv_indices))[0]


@torch.library.custom_op("tokensieve::attention_varlen", mutates_args=(),
                         device_types=("cpu", "cuda"))
def attention_varlen(q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor,
                     cu_seqlens_kv: Tensor, max_seqlen_q: int | None = None,
                     max_seqlen_kv: int | None = None, sink_logits: Tensor | None = None,
                     select: str = "", sm_scale: float | None = None, softcap: float = 0.0,
                     causal: bool = True, backend: str = "auto", blocks: str = "",
                     products: str = "auto") -> Tensor:
    """:func:`tokensieve.attention_varlen` with its parameters and errors; forward only.

    Parameters
    ----------
    q : Tensor [tokens of q, num_q_heads, head_dim]
    k, v : Tensor [tokens of k, num_kv_heads, head_dim]
    cu_seqlens_q, cu_seqlens_kv : Tensor [sequences + 1]
    select : str
        ``SelectConfig(...).text``; "": dense.
    blocks : str
        ``BlockConfig(...).text``; "": every tile.
    products : str

    Returns
    -------
    Tensor
        Contiguous, of q's shape.
    """
    settings, extras = _attend.packed(
        q, Settings.of(_config(SelectConfig, "select", select), sm_scale, softcap, causal,
                       backend=backend, blocks=_config(BlockConfig, "blocks", blocks),
                       products=products),
        Extras(sink_logits, cu_seqlens_q=cu_seqlens_q, cu_seqlens_kv=cu_seqlens_kv),
        max_seqlen_q, max_seqlen_kv)
    with torch.no_grad():
        return _attend.attend(q, k, v, settings, extras)[0]


@functools.lru_cache(maxsize=64)
def _config(kind: type[Any], name: str, text: str) -> Any:
    try:
        return kind(**json.loads(text)) if text else None
    except (ValueError, TypeError) as problem:
        raise ArgumentError(f"{name} is {text!r}: {problem}; allowed: {kind.__name__}(...).text") \
            from None


def _like_q(q: Tensor, *_: Any, **__: Any) -> Tensor:
    return q.new_empty(q.shape)


def _refuse_gradients(*_: Any, **__: Any) -> None:
    raise ArgumentError(_attend.FORWARD_ONLY)


for operator in (attention, attention_varlen):
    operator.register_fake(_like_q)
    operator.register_autograd(_refuse_gradients, setup_context=_refuse_gradients)
