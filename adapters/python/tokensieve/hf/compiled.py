"""Attention layers inside torch.compile: one opaque operator, which decides when it runs.

The graph holds `torch.ops.tokensieve.layer` for every attention layer that reads more than one
token. It calls what eager code calls, so policies, `with tokensieve.sparse(...)`, masks and
statistics are those of the moment, and results are those of eager code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.hf import forward, layer, masks
from tokensieve.hf.forward import Call, Kind, Logits

_traced_key = torch.compiler.assume_constant_result(layer.key_of)  # type: ignore[no-untyped-call]


def _key_of(module: nn.Module) -> int | None:
    """A layer's key as a constant of the graph; None for one that old torch did not run before."""
    if layer.NAMES_WHILE_TRACING:
        return _traced_key(module)
    return getattr(getattr(module, "tokensieve_layer", None), "key", None)


def attention(call: Call, **kwargs: Any) -> Tensor:
    """A layer's attention while torch.compile traces it."""
    kind, mask = call.kind, call.mask
    if reason := call.trains():
        forward.say_training(reason)
    elif call.query.shape[2] > 1 and kind.dropout == 0.0 and not kind.unknown:
        key = _key_of(call.module)
        if key is not None:
            return operator(call.query, call.key, call.value, mask, call.logits.sinks,
                            call.logits.scaling, call.logits.softcap, kind.sliding, kind.causal,
                            call.override, masks.is_unsure(mask), key)
    return forward.dense(call._replace(mask=masks.whole(mask, call.query)), **kwargs)


@torch.library.custom_op("tokensieve::layer", mutates_args=(), device_types=("cpu", "cuda"))
def operator(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, sinks: Tensor | None,
             scaling: float | None, softcap: float | None, sliding: int | None, causal: bool,
             override: str, unsure: bool, module: int) -> Tensor:
    """Attention of a layer as its profile says: [batch, heads, seq, dim] to [batch, seq, heads,
    dim]. `mask` is a graph's (masks.py), `unsure` too; `module` is the layer's key."""
    with torch.no_grad():
        keys, mask = masks.visible_in_graph(query, key, mask, unsure)
        call = Call(layer.with_key(module), query, key, value, mask,
                    Logits(scaling, softcap, sinks), Kind(causal, sliding), override)
        out = forward.sparse(call, keys)
        if out is None:
            out = forward.dense(call._replace(mask=masks.whole(mask, query)), keys)
        return out


@operator.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    batch, heads, seq, _dim = query.shape
    return query.new_empty((batch, seq, heads, value.shape[3]))
