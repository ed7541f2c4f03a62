"""Block masks together with selection: a FlexAttention mask over the kept rows."""

from __future__ import annotations

from typing import Any

from tokensieve._abi import ArgumentError

_FLEX_BLOCK = 128  # of FlexAttention's kernels


class BlockMask:
    """Which blocks of keys each block of queries sees, for :func:`tokensieve.sieve` around
    FlexAttention. Causality comes on top: of a block on the diagonal the lower triangle counts.

    Parameters
    ----------
    blocks : bool array [q_blocks, kv_blocks], [heads, ...] or [batch, heads, q_blocks, kv_blocks]
        True: seen. Blocks count from the prompt's start; heads and batch may be 1.
    block_size : int
        Tokens of a block, for queries and keys.

    Raises
    ------
    ArgumentError
        A wrong number of dimensions, blocks that are not square, or a block_size below 1.

    Examples
    --------
    >>> blocks = torch.ones(64, 64).tril() - torch.ones(64, 64).tril(-8)   # a band of 8 blocks
    >>> blocks[:, 0] = 1                                                   # and the first block
    >>> flex = functools.partial(flex_attention, enable_gqa=True)
    >>> attend = tokensieve.sieve(flex, block_mask=tokensieve.BlockMask(blocks))
    """

    def __init__(self, blocks: Any, block_size: int = _FLEX_BLOCK) -> None:
        import torch
        blocks = torch.as_tensor(blocks).bool()
        if not 2 <= blocks.ndim <= 4 or blocks.shape[-1] != blocks.shape[-2]:
            raise ArgumentError(f"blocks has shape {tuple(blocks.shape)}; allowed: [q_blocks, "
                                "kv_blocks] with both the same, or with heads, or batch and heads, "
                                "before them")
        if not isinstance(block_size, int) or block_size < 1:
            raise ArgumentError(f"block_size is {block_size!r}; allowed: an integer from 1")
        self.blocks = blocks[(None,) * (4 - blocks.ndim)]  # [batch, heads, q_blocks, kv_blocks]
        self.block_size = block_size

    def _check(self, batch: int, heads: int, seq: int) -> None:
        """Raises ArgumentError unless the mask covers such a prompt."""
        b, h, blocks, _ = self.blocks.shape
        if b not in (1, batch) or h not in (1, heads) or blocks * self.block_size < seq:
            raise ArgumentError(
                f"the block mask has batch {b}, heads {h}, {blocks} blocks of {self.block_size} "
                f"tokens; allowed here: batch 1 or {batch}, heads 1 or {heads}, at least "
                f"{-(-seq // self.block_size)} blocks")

    def over(self, positions: Any, sequence: int, heads: int) -> Any:
        """The mask over the kept rows of one sequence.

        Parameters
        ----------
        positions : int64 Tensor [sets, count]
            Ascending kept positions; set s belongs to the query heads from s * heads / sets.
        sequence : int
            Which of the batch.
        heads : int
            Query heads.

        Returns
        -------
        torch.nn.attention.flex_attention.BlockMask
            [1, 1 or heads, count, count].
        """
        from torch.nn.attention.flex_attention import BlockMask as FlexMask
        blocks = self.blocks[sequence if self.blocks.shape[0] > 1 else 0].to(positions.device)
        if positions.shape[0] > 1 or blocks.shape[0] > 1:
            positions = positions.repeat_interleave(heads // positions.shape[0], dim=0)
            blocks = blocks.expand(heads, -1, -1)
        at = positions // self.block_size  # the block of each kept row
        one = positions.shape[0] == 1

        def sees(b: Any, h: Any, i: Any, j: Any) -> Any:
            head = h * 0 if one else h
            return ((positions[head, j] <= positions[head, i])
                    & blocks[head, at[head, i], at[head, j]])

        some, every = _compact(blocks, at)
        return FlexMask.from_kv_blocks(
            *_ordered(some & ~every), *_ordered(every), BLOCK_SIZE=_FLEX_BLOCK, mask_mod=sees,
            seq_lengths=(positions.shape[1], positions.shape[1]))


def _compact(blocks: Any, at: Any) -> tuple[Any, Any]:
    """Blocks of kept rows [heads, n, n]: those that see something, and those that see everything.

    Kept rows of one block may come from many blocks of the prompt."""
    import torch
    heads, count = at.shape
    n = -(-count // _FLEX_BLOCK)
    own = torch.arange(count, device=at.device) // _FLEX_BLOCK
    member = torch.zeros(heads, n, blocks.shape[-1], device=at.device)
    member[torch.arange(heads, device=at.device)[:, None], own, at] = 1.0
    past = torch.ones(n, n, dtype=torch.bool, device=at.device).tril()
    some = (member @ blocks.float() @ member.mT > 0) & past
    every = (member @ (~blocks).float() @ member.mT == 0) & past.tril(-1)
    if count % _FLEX_BLOCK:
        every[:, -1] = False  # it ends inside the block
    return some, every


def _ordered(blocks: Any) -> tuple[Any, Any]:
    """FlexAttention's form: how many of a row are set, and which come first."""
    import torch
    order = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1).int()[None], order.int()[None]
