"""Block masks as FlexAttention's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokensieve._abi import ArgumentError
from tokensieve._tile_lists import from_counts, to_counts
from tokensieve._tiles import TILE, Tiles, place

_AT_ONCE = 64  # blocks whose mask_mod is evaluated together


def from_flex(make: Callable[[Any, Tiles], Any], mask: Any) -> Any:
    """BlockMask.from_flex."""
    lists = [getattr(mask, name, None) for name in ("kv_num_blocks", "kv_indices")]
    if None in map(type, lists) or any(x is None for x in lists):
        raise ArgumentError(f"mask is a {type(mask).__name__}; allowed: a BlockMask of "
                            "torch.nn.attention.flex_attention")
    if tuple(mask.BLOCK_SIZE) != (TILE, TILE):
        raise ArgumentError(f"the mask has BLOCK_SIZE {tuple(mask.BLOCK_SIZE)}; allowed: (128, "
                            "128)")
    queries, keys = mask.seq_lengths
    made = from_counts(make, tuple(lists), (mask.full_kv_num_blocks, mask.full_kv_indices),
                       ("kv_block", "full_kv_block"), queries, keys)
    _check_causal(mask, queries, keys)
    return made


def _check_causal(mask: Any, queries: int, keys: int) -> None:
    """Raises ArgumentError unless mask_mod is causal in the blocks that it decides."""
    import torch
    count, index = mask.kv_num_blocks, mask.kv_indices
    listed = torch.arange(index.shape[3], device=index.device) < count[..., None]
    b, h, r, slot = listed.nonzero(as_tuple=True)
    c = index[b, h, r, slot].long()
    inside = torch.arange(TILE, device=index.device)
    for begin in range(0, len(b), _AT_ONCE):
        part = torch.arange(begin, min(begin + _AT_ONCE, len(b)), device=index.device)
        shape = (len(part), TILE, TILE)
        i = (r[part, None] * TILE + inside)[:, :, None].expand(shape)
        j = (c[part, None] * TILE + inside)[:, None, :].expand(shape)
        i, j = i.clamp(max=queries - 1), j.clamp(max=keys - 1)  # twice the last: nothing new
        own = [x[part, None, None].expand(shape) for x in (b, h)]
        sees = torch.vmap(mask.mask_mod)(*(x.reshape(-1) for x in (*own, i, j))).reshape(shape)
        wrong = (sees != (j <= i + keys - queries)).flatten(1).any(dim=1)
        if wrong.any():
            at = part[wrong.nonzero()[0, 0]]
            raise ArgumentError(
                f"mask_mod is not causal in key block {int(c[at])} of "
                f"{place(int(b[at]), int(h[at]), int(r[at]))}; allowed: blocks that are seen as "
                "far as causality goes")


def to_flex(blocks: Any, grid: Tiles, heads: int | None, device: Any, seqlen_q: int | None,
            seqlen_kv: int | None) -> Any:
    """BlockMask.to_flex of bool [batch, masks, rows, columns]."""
    import torch
    if heads is not None and (heads < 1 or heads % blocks.shape[1]):
        raise ArgumentError(f"heads is {heads}; allowed: a multiple of the {blocks.shape[1]} masks")
    keys = grid.columns * TILE if seqlen_kv is None else seqlen_kv
    queries = keys - grid.first_row if seqlen_q is None else seqlen_q
    if grid != Tiles.of(grid.rows, grid.columns, TILE, queries, keys):
        raise ArgumentError(f"the block mask begins at token {grid.first_row}; allowed: "
                            f"{keys - queries} with {queries} queries and {keys} keys")
    if heads is not None and blocks.shape[1] > 1:
        blocks = blocks.repeat(heads // blocks.shape[1], axis=1)
    full = blocks & grid.below()
    lists = [torch.from_numpy(x).to(device)
             for part in (blocks & ~full, full) for x in to_counts(part)]
    seen = torch.from_numpy(blocks).to(device)
    batches, masks, first = *blocks.shape[:2], keys - queries

    def sees(b: Any, h: Any, i: Any, j: Any) -> Any:  # eager FlexAttention reads nothing else
        return seen[b % batches, h % masks, i // TILE, j // TILE] & (j <= i + first)

    return _flex_mask_class().from_kv_blocks(*lists, BLOCK_SIZE=TILE, mask_mod=sees,
                                             seq_lengths=(queries, keys))


def over(blocks: Any, size: int, positions: Any, heads: int) -> Any:
    """BlockMask.over for a sequence's bool [masks, blocks, blocks]."""
    if positions.shape[0] > 1 or blocks.shape[0] > 1:
        positions = positions.repeat_interleave(heads // positions.shape[0], dim=0)
        blocks = blocks.expand(heads, -1, -1)
    at = positions // size  # the block of each kept row
    one = positions.shape[0] == 1

    def sees(b: Any, h: Any, i: Any, j: Any) -> Any:
        head = h * 0 if one else h
        return ((positions[head, j] <= positions[head, i])
                & blocks[head, at[head, i], at[head, j]])

    some, every = _compact(blocks, at)
    return _flex_mask_class().from_kv_blocks(
        *_ordered(some & ~every), *_ordered(every), BLOCK_SIZE=TILE, mask_mod=sees,
        seq_lengths=(positions.shape[1], positions.shape[1]))


def _flex_mask_class() -> Any:
    from torch.nn.attention.flex_attention import BlockMask as FlexMask
    return FlexMask


def _compact(blocks: Any, at: Any) -> tuple[Any, Any]:
    """Blocks of kept rows [heads, n, n]: those that see something, and those that see everything.

    Kept rows of one block may come from many blocks of the prompt."""
    import torch
    heads, count = at.shape
    n = -(-count // TILE)
    own = torch.arange(count, device=at.device) // TILE
    member = torch.zeros(heads, n, blocks.shape[-1], device=at.device)
    member[torch.arange(heads, device=at.device)[:, None], own, at] = 1.0
    past = torch.ones(n, n, dtype=torch.bool, device=at.device).tril()
    some = (member @ blocks.float() @ member.mT > 0) & past
    every = (member @ (~blocks).float() @ member.mT == 0) & past.tril(-1)
    if count % TILE:
        every[:, -1] = False  # it ends inside the block
    return some, every


def _ordered(blocks: Any) -> tuple[Any, Any]:
    """FlexAttention's form: how many of a row are set, and which come first."""
    import torch
    order = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1).int()[None], order.int()[None]
