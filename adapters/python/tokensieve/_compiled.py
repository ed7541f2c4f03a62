"""Attention layers inside torch.compile: one opaque operator, which decides when it runs.

The graph holds `torch.ops.tokensieve.layer` for every attention layer that reads more than one
token. It calls what eager code calls, so policies, `with tokensieve.sparse(...)`, masks and
statistics are those of the moment, and results are those of eager code.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import causal_mask_function, sdpa_mask

_modules: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
_keys: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
_next_key = itertools.count()


# Older torch cannot call Python code with a module while it traces (2.11 fails, 2.13 does not).
_NAMES_WHILE_TRACING = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)


def name(module: nn.Module) -> int:
    """The operator's name of an attention layer."""
    if module not in _keys:
        _keys[module] = next(_next_key)
        _modules[_keys[module]] = module
        if not _NAMES_WHILE_TRACING:
            setattr(module, "tokensieve_key", _keys[module])
    return _keys[module]


_traced_name = torch.compiler.assume_constant_result(name)


def key_of(module: nn.Module) -> int | None:
    """name() as a constant of the graph; None for a layer that old torch did not run before."""
    if _NAMES_WHILE_TRACING:
        return _traced_name(module)
    return getattr(module, "tokensieve_key", None)


# ---- Masks ---------------------------------------------------------------------------------------
# A mask that is causal with padding at most travels packed, int32 [batch, 1 + keys] in host memory:
# the position of the first query, then 1 for each key that is a token. Whether there is padding at
# all is known only when the graph runs, and the whole mask of a long prompt would fill the memory.


def query_rows(kwargs: dict[str, Any]) -> tuple[int, Any]:
    """How many queries a mask is for, and the position of the first one, by sdpa_mask's
    arguments."""
    position = kwargs.get("cache_position")  # transformers 4
    if position is not None:
        return position.shape[0], position[0]
    return kwargs.get("q_length", 1), kwargs.get("q_offset", 0)


def traced_mask(**kwargs: Any) -> Tensor | None:
    """The mask of a graph: None for causal without padding, packed, or SDPA's."""
    (queries, first), keys = query_rows(kwargs), kwargs["kv_length"]
    padding = kwargs.get("attention_mask")
    plain = kwargs.get("local_size") is None and kwargs.get("kv_offset", 0) == 0
    if (queries == 1 or not plain
            or kwargs.get("mask_function", causal_mask_function) is not causal_mask_function):
        mask = sdpa_mask(**kwargs)
        # Without a cache transformers cannot tell a prompt from packed sequences while it traces.
        if mask is not None and plain and padding is None and queries == keys:
            setattr(mask, "tokensieve_verify", True)
        return mask
    if padding is None and not isinstance(first, Tensor) and first == 0 and queries == keys:
        return None
    batch = kwargs["batch_size"]
    if padding is None:
        padding = torch.ones(batch, keys, dtype=torch.int32)
    padding = nn.functional.pad(padding[:, :keys].int(), (0, max(0, keys - padding.shape[1])))
    if not isinstance(first, Tensor):
        first = torch.full((1,), first, dtype=torch.int32, device=padding.device)
    begin = first.to(padding.device, torch.int32).reshape(1, 1).expand(batch, 1)
    return torch.cat([begin, padding], dim=1).cpu()


def is_packed(mask: Tensor | None) -> bool:
    return mask is not None and mask.ndim == 2 and mask.dtype == torch.int32


def whole_mask(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """A mask for SDPA."""
    if mask is None or not is_packed(mask):
        return mask
    mask = mask.to(query.device)
    row = torch.arange(query.shape[2], device=query.device)[:, None] + mask[0, 0]
    key = torch.arange(mask.shape[1] - 1, device=query.device)
    return (key <= row) & mask[:, None, None, 1:].bool()


def is_causal(mask: Tensor) -> bool:
    """Whether a mask [batch, 1, rows, rows] is causal attention and nothing else."""
    rows = mask.shape[2]
    if not mask[:, :, -1].all():
        return False
    return bool((mask == torch.ones(rows, rows, dtype=torch.bool, device=mask.device).tril()).all())


# ---- The operator --------------------------------------------------------------------------------


@torch.library.custom_op("tokensieve::layer", mutates_args=(), device_types=("cpu", "cuda"))
def layer(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, sinks: Tensor | None,
          scaling: float | None, softcap: float | None, sliding: int | None, causal: bool,
          override: str, verify: bool, module: int) -> Tensor:
    """Attention of a layer as its policy says: [batch, heads, seq, dim] to [batch, seq, heads,
    dim]. `mask` may be packed (above); `verify`: it is causal unless sequences are packed."""
    from tokensieve import hf
    with torch.no_grad():
        return hf.run_traced(hf._Call(_modules[module], query, key, value, mask, sinks, scaling,
                                      softcap, sliding, causal, override), verify)


@layer.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    batch, heads, seq, _dim = query.shape
    return query.new_empty((batch, seq, heads, value.shape[3]))
