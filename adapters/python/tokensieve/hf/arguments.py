"""Arguments that models hand to their attention function, beyond those of all.

Whoever registers an attention function gets what models have for their own kernels. SDPA overlooks
what it does not know; models see to it by the name "sdpa" and hand the same to others otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import TransformersKwargs

from tokensieve._abi import UnsupportedError
from tokensieve.hf import layer, masks
from tokensieve.hf.forward import SDPA_KNOWS

# What a call of the model was given, and how other kernels should go about it.
_WITHOUT_EFFECT = TransformersKwargs.__optional_keys__ | {
    "cache_position", "deterministic", "logits_to_keep", "output_attentions", "past_key_values",
    "position_embeddings", "return_dict", "tokensieve", "use_cache"}


def apply(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None,
          kwargs: dict[str, Any]) -> tuple[Tensor | None, str]:
    """The mask for the arguments, and the name of one that only dense attention has, or "".

    Raises
    ------
    UnsupportedError
        A tensor under a name that nobody knows: attention without it would be wrong.
    """
    known = ""
    for name, value in kwargs.items():
        if value is None or name in _WITHOUT_EFFECT:
            continue
        if name == "indices":  # DeepSeek-V3.2: keys of each query
            mask = masks.with_choice(mask, value, query, key)
        elif name == "block_indices":  # MiniMax-M3: blocks of keys
            mask = _with_blocks(module, query, key, mask, value, kwargs.get("position_ids"))
        elif name not in SDPA_KNOWS:
            _unknown(module, name, value)
            continue
        known = name
    return mask, known


def _with_blocks(module: Any, query: Tensor, key: Tensor, mask: Tensor | None, blocks: Tensor,
                 positions: Tensor | None) -> Tensor:
    build = getattr(getattr(module, "indexer", None), "build_block_mask", None)
    if build is None:
        raise _refused(module, "block_indices")
    keys = key.shape[2]
    if positions is None:
        positions = torch.arange(keys - query.shape[2], keys, device=query.device)[None]
    return build(blocks, mask, keys, query.dtype, query.device,
                 positions.expand(query.shape[0], -1))


def _unknown(module: nn.Module, name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        raise _refused(module, name)
    layer.say_once(f"tokensieve: {type(module).__name__} hands its attention {name}={value!r:.40}, "
                   "which has no effect")


def _refused(module: nn.Module, name: str) -> UnsupportedError:
    return UnsupportedError(
        f"{type(module).__name__} hands its attention a tensor '{name}', which tokensieve does not "
        "know; load the model with attn_implementation='sdpa' or 'eager'")
