"""BlockMask: which tiles of keys each tile of queries sees, as bits."""

from __future__ import annotations

import functools
from typing import Any

from tokensieve import _flex_mask, _tile_lists
from tokensieve._abi import ArgumentError
from tokensieve._tiles import TILE, Tiles, checked, pack, to_128, unpack


class BlockMask:
    """Which tiles of 128 keys each tile of 128 queries sees, for :func:`tokensieve.attention` and
    :func:`tokensieve.sieve`. Causality comes on top: of a tile on the diagonal the lower triangle
    counts, and tiles above it do not count.

    Made from what other libraries hold by ``from_bool``, ``from_flex``, ``from_fa4``, ``from_csr``
    and ``from_bsr``, which refuse what causal attention over tiles cannot mean, or estimated by
    :func:`tokensieve.estimate_blocks`.

    Parameters
    ----------
    blocks : bool array [q_blocks, kv_blocks], [heads, ...] or [batch, heads, q_blocks, kv_blocks]
        True: seen. Blocks count from the prompt's start; heads and batch may be 1.
    block_size : int
        Tokens of a block, for queries and keys; another than 128 is for :func:`tokensieve.sieve`.

    Attributes
    ----------
    bits : uint32 array [batch, masks, row_tiles, words]
        Bit c % 32 of word c // 32: key tile c is seen. On CUDA an int32 tensor.
    tiles : Tiles
        The grid: row_tiles, key_tiles, and the tokens before the first row.
    block_size : int

    Raises
    ------
    ArgumentError
        A wrong number of dimensions, blocks that are not square, or a block_size below 1.

    Examples
    --------
    >>> blocks = torch.ones(64, 64).tril() - torch.ones(64, 64).tril(-8)   # a band of 8 blocks
    >>> blocks[:, 0] = 1                                                   # and the first block
    >>> mask = tokensieve.BlockMask(blocks)
    >>> out = tokensieve.attention(q, k, v, block_mask=mask)
    >>> flex = functools.partial(flex_attention, enable_gqa=True)
    >>> attend = tokensieve.sieve(flex, block_mask=mask)
    """

    bits: Any
    tiles: Tiles
    block_size: int

    def __init__(self, blocks: Any, block_size: int = TILE) -> None:
        array = host_bool(blocks)
        if not 2 <= array.ndim <= 4 or array.shape[-1] != array.shape[-2]:
            raise ArgumentError(f"blocks has shape {tuple(array.shape)}; allowed: [q_blocks, "
                                "kv_blocks] with both the same, or with heads, or batch and heads, "
                                "before them")
        if not isinstance(block_size, int) or block_size < 1:
            raise ArgumentError(f"block_size is {block_size!r}; allowed: an integer from 1")
        array = array[(None,) * (4 - array.ndim)]
        self.tiles = Tiles(array.shape[2], array.shape[3], 0)
        self.bits = pack(array & self.tiles.visible())
        self.block_size = block_size

    @staticmethod
    def _of(bits: Any, tiles: Tiles) -> BlockMask:
        mask = object.__new__(BlockMask)
        mask.bits, mask.tiles, mask.block_size = bits, tiles, TILE
        return mask

    @property
    def num_masks(self) -> int:
        """Masks of a sequence: query heads, kv heads or 1."""
        return int(self.bits.shape[1])

    @staticmethod
    def from_bool(blocks: Any, block_size: int = TILE, *, seqlen_q: int | None = None,
                  seqlen_kv: int | None = None) -> BlockMask:
        """From a bool array of blocks.

        Parameters
        ----------
        blocks : bool array [row blocks, key blocks], [masks, ...] or [batch, masks, ...]
            Torch or NumPy. Row blocks begin with the first query.
        block_size : {128, 64}
            64: two by two become one tile, which is seen where one of them is: a superset.
        seqlen_q, seqlen_kv : int, optional
            Queries and keys; None: the whole prompt, as long as the blocks.

        Raises
        ------
        ArgumentError
            Another shape than the lengths', or a block above the diagonal: the first batch, head
            and row.
        """
        array = host_bool(blocks)
        if not 2 <= array.ndim <= 4:
            raise ArgumentError(f"blocks has shape {tuple(array.shape)}; allowed: [row blocks, key "
                                "blocks], or with masks, or batch and masks, before them")
        array = array[(None,) * (4 - array.ndim)]
        grid = Tiles.of(array.shape[2], array.shape[3], block_size, seqlen_q, seqlen_kv)
        return BlockMask._of(*to_128(checked(array, grid, block_size), grid, block_size))

    @staticmethod
    def from_csr(indptr: Any, indices: Any, *, seqlen_q: int | None = None,
                 seqlen_kv: int | None = None) -> BlockMask:
        """From lists of key tiles, one after the other.

        Parameters
        ----------
        indptr : integer array [row_tiles + 1] or [batch, masks, row_tiles + 1]
            Where each row's list begins in ``indices``: from 0, never descending.
        indices : integer array [entries] or [batch, masks, entries]
            Ascending in each row.
        seqlen_q, seqlen_kv : int, optional
            As of ``from_bool``.

        Raises
        ------
        ArgumentError
            A wrong indptr; entries out of range, out of order, twice or above the diagonal: the
            first batch, head and row.
        """
        return _tile_lists.from_csr(BlockMask._of, indptr, indices, TILE, seqlen_q, seqlen_kv)

    @staticmethod
    def from_bsr(indptr: Any, indices: Any, block_size: int = TILE, *,
                 seqlen_q: int | None = None, seqlen_kv: int | None = None) -> BlockMask:
        """From FlashInfer's block-sparse rows: one mask for all heads and sequences.

        Parameters
        ----------
        indptr : integer array [row blocks + 1]
        indices : integer array [entries]
            As of ``from_csr``.
        block_size : {128, 64}
            FlashInfer's R and C; 64 as in ``from_bool``.
        seqlen_q, seqlen_kv : int, optional
            As of ``from_bool``.
        """
        if getattr(indptr, "ndim", 1) != 1:
            raise ArgumentError(f"indptr has {indptr.ndim} dimensions; allowed: 1 (from_csr has "
                                "masks for batch and heads)")
        return _tile_lists.from_csr(BlockMask._of, indptr, indices, block_size, seqlen_q, seqlen_kv)

    @staticmethod
    def from_fa4(mask_block_cnt: Any, mask_block_idx: Any, full_block_cnt: Any = None,
                 full_block_idx: Any = None, *, seqlen_q: int | None = None,
                 seqlen_kv: int | None = None) -> BlockMask:
        """From FlashAttention 4's block-sparse lists, with causal attention.

        Parameters
        ----------
        mask_block_cnt, full_block_cnt : integer array [batch, heads, row_tiles]
        mask_block_idx, full_block_idx : integer array [batch, heads, row_tiles, most entries]
            The first ``cnt`` of a row count, ascending. Batch and heads may be 1.
        seqlen_q, seqlen_kv : int, optional
            As of ``from_bool``; None: as many key tiles as row tiles.

        Raises
        ------
        ArgumentError
            Counts or entries out of range, out of order, twice or above the diagonal, or a full
            block on it: the first batch, head and row.
        """
        return _tile_lists.from_counts(
            BlockMask._of, (mask_block_cnt, mask_block_idx), (full_block_cnt, full_block_idx),
            ("mask_block", "full_block"), seqlen_q, seqlen_kv)

    @staticmethod
    def from_flex(mask: Any) -> BlockMask:
        """From a BlockMask of ``torch.nn.attention.flex_attention`` with BLOCK_SIZE 128.

        Parameters
        ----------
        mask : torch.nn.attention.flex_attention.BlockMask
            Its queries are the last tokens of the keys.

        Raises
        ------
        ArgumentError
            As ``from_fa4``, or a mask_mod that is not causal in a block which it decides.
        """
        return _flex_mask.from_flex(BlockMask._of, mask)

    def to_bool(self) -> Any:
        """The seen tiles: a NumPy bool array [batch, masks, row tiles, key tiles]."""
        return unpack(self._host(), self.tiles.columns) & self.tiles.visible()

    def to_csr(self) -> tuple[Any, Any]:
        """What ``from_csr`` reads: int32 [batch, masks, row_tiles + 1] and [batch, masks, entries];
        of a shorter list the rest is 0."""
        return _tile_lists.to_csr(self._tiles_128())

    def to_bsr(self) -> tuple[Any, Any]:
        """What ``from_bsr`` and FlashInfer read: int32 [row_tiles + 1] and [entries], of one mask
        for all."""
        if self.bits.shape[:2] != (1, 1):
            raise ArgumentError(f"the block mask has batch {self.bits.shape[0]} and "
                                f"{self.num_masks} masks; allowed: one for all heads and sequences")
        indptr, indices = self.to_csr()
        return indptr[0, 0], indices[0, 0]

    def to_fa4(self) -> tuple[Any, Any, Any, Any]:
        """What ``from_fa4`` and FlashAttention 4 read: mask_block_cnt, mask_block_idx,
        full_block_cnt, full_block_idx, int32."""
        blocks = self._tiles_128()
        full = blocks & self.tiles.below()
        return (*_tile_lists.to_counts(blocks & ~full), *_tile_lists.to_counts(full))

    def to_flex(self, heads: int | None = None, device: Any = None, *,
                seqlen_q: int | None = None, seqlen_kv: int | None = None) -> Any:
        """FlexAttention's BlockMask, causality included, also for its eager form.

        Parameters
        ----------
        heads : int, optional
            Query heads, where masks are those of kv heads.
        device : torch.device, optional
        seqlen_q, seqlen_kv : int, optional
            Those of the call; None: whole tiles.
        """
        return _flex_mask.to_flex(self._tiles_128(), self.tiles, heads, device, seqlen_q, seqlen_kv)

    def density(self) -> float:
        """Seen tiles / tiles that hold a visible pair."""
        seen, visible = self.to_bool(), self.tiles.visible()
        return float(seen.sum() / (visible.sum() * seen.shape[0] * seen.shape[1]))

    def _tiles_128(self) -> Any:
        if self.block_size != TILE:
            raise ArgumentError(f"the block mask has block_size {self.block_size}; allowed here: "
                                "128 (from_bool(..., block_size=64) makes tiles of 128)")
        return self.to_bool()

    def _host(self) -> Any:
        import numpy as np
        if isinstance(self.bits, np.ndarray):
            return self.bits
        return self.bits.cpu().numpy().view("uint32")

    def _check(self, batch: int, heads: int, seq: int) -> None:
        """Raises ArgumentError unless the mask covers such a prompt."""
        b, h, blocks, _ = self.bits.shape
        if b not in (1, batch) or h not in (1, heads) or blocks * self.block_size < seq:
            raise ArgumentError(
                f"the block mask has batch {b}, heads {h}, {blocks} blocks of {self.block_size} "
                f"tokens; allowed here: batch 1 or {batch}, heads 1 or {heads}, at least "
                f"{-(-seq // self.block_size)} blocks")

    @functools.cached_property
    def _blocks(self) -> Any:
        import torch
        return torch.from_numpy(self.to_bool())

    def over(self, positions: Any, sequence: int, heads: int) -> Any:
        """The mask over the kept rows of one sequence, for FlexAttention.

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
        blocks = self._blocks[sequence if self.bits.shape[0] > 1 else 0].to(positions.device)
        return _flex_mask.over(blocks, self.block_size, positions, heads)


def host_bool(blocks: Any) -> Any:
    """A NumPy bool array of a torch tensor or what NumPy takes."""
    import numpy as np
    if hasattr(blocks, "detach"):
        blocks = blocks.detach().cpu().bool().numpy()
    return np.asarray(blocks).astype(bool)
