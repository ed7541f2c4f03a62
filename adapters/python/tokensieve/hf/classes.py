"""Which classes of models can run with attn_implementation="tokensieve". Others are
refused by name when they are made: their own code would add our masks to its scores, and causality
would be lost."""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from tokensieve._abi import UnsupportedError
from tokensieve.hf import layer


def check_when_loaded(name: str) -> None:
    """Has transformers ask `problem` where it checks an attention implementation, for each part of
    a model that has a class of its own."""
    models: Any = PreTrainedModel
    before = models.get_correct_attn_implementation
    if hasattr(before, "tokensieve_before"):
        return

    @functools.wraps(before)
    def checked(self: Any, requested_attention: str | None, *args: Any, **kwargs: Any) -> str:
        if requested_attention == name and (why := problem(self)):
            text = f"{type(self).__name__} {why}"
            if self.can_generate():
                raise UnsupportedError(f"{text}; load it with attn_implementation='eager'")
            layer.say_once(f"tokensieve: {text}; it runs attn_implementation='eager'")
            requested_attention = "eager"
        return before(self, requested_attention, *args, **kwargs)

    setattr(checked, "tokensieve_before", before)
    models.get_correct_attn_implementation = checked


def problem(model: Any) -> str:
    """Why a model's own class cannot run, or ""; parts with a class of their own are not asked."""
    config: Any = model.config
    cls: Any = type(model)
    attends, calls_functions = _attention_of(cls)
    if not attends or (model.can_generate() and config.get_text_config(decoder=True) is not config
                       and not config.is_encoder_decoder):
        return ""
    if not calls_functions:
        return "computes its attention itself, which tokensieve cannot replace"
    if not any(getattr(cls, f"_supports_{kernel}", False)
               for kernel in ("sdpa", "flash_attn", "flex_attn")):
        return "has eager attention only (transformers refuses 'sdpa', too)"
    return ""


@functools.lru_cache(maxsize=None)
def _attention_of(cls: Any) -> tuple[bool, bool]:
    """Whether the modules that define a class have attention layers of their own, and whether those
    call the attention functions of transformers."""
    own = [sys.modules[base.__module__] for base in cls.__mro__
           if issubclass(base, PreTrainedModel) and base is not PreTrainedModel
           and base.__module__ in sys.modules]
    attends = any(
        inspect.isclass(item) and issubclass(item, nn.Module) and "Attention" in name
        and item.__module__ == module.__name__
        for module in own for name, item in tuple(vars(module).items()))
    return attends, any(hasattr(module, "ALL_ATTENTION_FUNCTIONS") for module in own)
