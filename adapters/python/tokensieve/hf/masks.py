"""What a mask of transformers means. Whoever wants to know which keys a call sees asks here.

No mask means that queries are the newest tokens, and that each sees all keys before it: models with
shared keys (Gemma 4) leave out older queries after the mask was made. A mask that is causal with
padding at most says so in an attribute. In a graph of torch.compile it travels packed, int32
[batch, 1, 1, 1 + keys] in host memory: the position behind the last query, then 1 for each key that
is a token. Whether there is padding at all is known only when the graph runs, and the whole mask of
a long prompt would fill the memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers.masking_utils import causal_mask_function, sdpa_mask


class VisibleKeys(NamedTuple):
    """What causal attention sees: the first `count` keys, of which each sequence has a span."""

    count: int  # type: ignore[assignment]
    spans: tuple[tuple[int, int], ...] = ()  # [begin, end) of each sequence's tokens; (): all


class _Unmade(torch.Tensor):
    """A mask that is made when somebody computes with it, which seldom happens: the whole one of a
    long prompt would fill the memory."""

    @staticmethod
    def __new__(cls, make: Callable[[], Any], shape: tuple[int, ...], device: Any) -> Any:
        self: Any = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool, device=device)
        self.make = make
        return self

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (),  # type: ignore[override]
                           kwargs: Any = None) -> Any:
        made = functools.partial(tree_map_only, cls, lambda mask: mask.make())
        return function(*made(args), **made(kwargs or {}))


def make(*args: Any, **kwargs: Any) -> Tensor | None:
    """SDPA's mask, which transformers asks for; one that is causal with padding at most says so.

    Chunks of a prompt, static caches and padding need a mask for SDPA, but tokensieve knows
    causality and takes padded sequences one by one."""
    if torch.compiler.is_compiling() and not args:
        return _make_traced(**kwargs)
    mask = sdpa_mask(*args, **kwargs)
    if args:
        return mask
    queries, first = _query_rows(kwargs)
    bidirectional = kwargs.get("allow_is_bidirectional_skip", False)
    if mask is None and not bidirectional and 1 < queries < kwargs["kv_length"]:
        # SDPA's causality is aligned top left: the rest of a static cache is not seen.
        mask = _Unmade(lambda: sdpa_mask(**{**kwargs, "allow_is_causal_skip": False}),
                       (kwargs["batch_size"], 1, queries, kwargs["kv_length"]),
                       kwargs.get("device", "cpu"))
    if mask is None or queries == 1 or not _is_plain(kwargs):
        return mask
    if int(kwargs.get("kv_offset", 0)) != 0:
        return mask
    keys = _visible(kwargs.get("attention_mask"), int(first) + queries)
    if keys is not None and keys.count <= kwargs["kv_length"]:
        setattr(mask, "tokensieve_keys", keys)
    return mask


def visible_keys(query: Tensor, key: Tensor, mask: Tensor | None) -> VisibleKeys | None:
    """The keys of causal attention, or None if the mask is something else."""
    if mask is None:
        return VisibleKeys(key.shape[2]) if query.shape[2] <= key.shape[2] else None
    return getattr(mask, "tokensieve_keys", None)


def is_unsure(mask: Tensor | None) -> bool:
    """Of a graph's mask: it is causal unless sequences are packed."""
    return getattr(mask, "tokensieve_unsure", False)


def visible_in_graph(query: Tensor, key: Tensor, mask: Tensor | None, unsure: bool
                     ) -> tuple[VisibleKeys | None, Tensor | None]:
    """visible_keys() of a graph's mask, when it runs, and the mask for `whole`."""
    if unsure and mask is not None and _is_causal(mask):
        mask = None
    if mask is None or not _is_packed(mask):
        return visible_keys(query, key, mask), mask
    row = mask[:, 0, 0]
    return _visible(row[:, 1:], int(row[0, 0])), mask


def whole(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """A mask of a graph for SDPA."""
    if mask is None or not _is_packed(mask):
        return mask
    mask, queries = mask.to(query.device), query.shape[2]
    row = torch.arange(queries, device=query.device)[:, None] + (mask[0, 0, 0, 0] - queries)
    key = torch.arange(mask.shape[3] - 1, device=query.device)
    return (key <= row) & mask[..., 1:].bool()


def bottom_right(query: Tensor, key: Tensor) -> Tensor:
    """Causality without padding as a mask."""
    queries, keys = query.shape[2], key.shape[2]
    return torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)


def with_choice(mask: Tensor | None, chosen: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """A mask less what the model's own selection, indices [batch, queries, keys of each], leaves
    out."""
    rows = chosen.new_zeros((*chosen.shape[:2], key.shape[2]), dtype=torch.bool)
    seen = rows.scatter(-1, chosen.long(), True)[:, None]
    if mask is None:
        mask = bottom_right(query, key)
    if mask.dtype == torch.bool:
        return mask & seen
    return mask.masked_fill(~seen, torch.finfo(mask.dtype).min)


def _query_rows(kwargs: dict[str, Any]) -> tuple[int, Any]:
    """How many queries a mask is for, and the position of the first one, by sdpa_mask's
    arguments."""
    position = kwargs.get("cache_position")  # transformers 4
    if position is not None:
        return position.shape[0], position[0]
    return kwargs.get("q_length", 1), kwargs.get("q_offset", 0)


def _is_plain(kwargs: dict[str, Any]) -> bool:
    """By sdpa_mask's arguments: causal with padding at most."""
    return (kwargs.get("mask_function", causal_mask_function) is causal_mask_function
            and kwargs.get("local_size") is None)


def _visible(padding: Tensor | None, count: int) -> VisibleKeys | None:
    """The first `count` keys less those that a 2-D mask leaves out; None if the tokens of a
    sequence are not in one piece."""
    if padding is None:
        return VisibleKeys(count)
    padding = padding[:, :count].bool()
    padding = nn.functional.pad(padding, (0, count - padding.shape[1]))
    if padding.all():
        return VisibleKeys(count)
    begin = padding.int().argmax(dim=1)
    end = begin + padding.sum(dim=1)
    at = torch.arange(count, device=padding.device)
    if (padding != ((at >= begin[:, None]) & (at < end[:, None]))).any():
        return None
    return VisibleKeys(count, tuple(zip(begin.tolist(), end.tolist())))


def _make_traced(**kwargs: Any) -> Tensor | None:
    """The mask of a graph: None for causal without padding, packed, or SDPA's."""
    (queries, first), keys = _query_rows(kwargs), kwargs["kv_length"]
    padding = kwargs.get("attention_mask")
    from_start = kwargs.get("kv_offset", 0) == 0
    skips = kwargs.get("allow_is_causal_skip", True)  # else the model computes with the mask
    if queries == 1 or not (from_start and skips and _is_plain(kwargs)):
        mask = sdpa_mask(**kwargs)
        # Without a cache transformers cannot tell a prompt from packed sequences while it traces.
        if (mask is not None and from_start and kwargs.get("local_size") is None
                and padding is None and queries == keys):
            setattr(mask, "tokensieve_unsure", True)
        return mask
    if padding is None and not isinstance(first, Tensor) and first == 0 and queries == keys:
        return None
    batch = kwargs["batch_size"]
    if padding is None:
        padding = torch.ones(batch, keys, dtype=torch.int32)
    padding = nn.functional.pad(padding[:, :keys].int(), (0, max(0, keys - padding.shape[1])))
    if not isinstance(first, Tensor):
        first = torch.full((1,), first, dtype=torch.int32, device=padding.device)
    end = (first.to(padding.device, torch.int32) + queries).reshape(1, 1).expand(batch, 1)
    return torch.cat([end, padding], dim=1)[:, None, None].cpu()


def _is_packed(mask: Tensor) -> bool:
    return mask.dtype == torch.int32 and mask.ndim == 4 and mask.shape[2] == 1


def _is_causal(mask: Tensor) -> bool:
    """Whether a mask [batch, 1, rows, rows] is causal attention and nothing else."""
    rows = mask.shape[2]
    if not mask[:, :, -1].all():
        return False
    return bool((mask == torch.ones(rows, rows, dtype=torch.bool, device=mask.device).tril()).all())
