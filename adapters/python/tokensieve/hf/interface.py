"""What transformers calls under the name "tokensieve", and who may stand between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.utils.generic import TransformersKwargs

from tokensieve import _context
from tokensieve.hf import arguments, classes, compiled, forward, masks
from tokensieve.hf.forward import Call, Kind, Logits

NAME = "tokensieve"
Function = Callable[..., Any]


def attention_forward(module: nn.Module, query: Tensor, key: Tensor, value: Tensor,
                      attention_mask: Tensor | None, dropout: float = 0.0,
                      scaling: float | None = None, is_causal: bool | None = None,
                      sliding_window: int | None = None, softcap: float | None = None,
                      s_aux: Tensor | None = None, tokensieve: Any = None, **kwargs: Any
                      ) -> tuple[Tensor, None]:
    """The attention function of transformers; tensors are [batch, heads, seq, dim]."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    attention_mask, unknown = arguments.apply(module, query, key, attention_mask, kwargs)
    call = Call(module, query, key, value, attention_mask, Logits(scaling, softcap, s_aux),
                Kind(causal, sliding_window, dropout, unknown), _context.text_of(tokensieve))
    if torch.compiler.is_compiling():
        return compiled.attention(call, **kwargs), None
    keys = masks.visible_keys(query, key, attention_mask)
    out = forward.sparse(call, keys)
    return forward.dense(call, keys, **kwargs) if out is None else out, None


@contextlib.contextmanager
def replaced(change: Callable[[Function], Function], *names: str) -> Iterator[None]:
    """Inside, transformers calls change(function) instead of its attention functions of these
    names; in all threads."""
    functions: Any = AttentionInterface
    before = {name: functions()[name] for name in names}
    for name, function in before.items():
        AttentionInterface.register(name, change(function))
    try:
        yield
    finally:
        for name, function in before.items():
            AttentionInterface.register(name, function)


def register() -> None:
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, masks.make)
    classes.check_when_loaded(NAME)
    # generate() refuses arguments that neither the model's signature nor this list has.
    TransformersKwargs.__optional_keys__ |= {"tokensieve"}
