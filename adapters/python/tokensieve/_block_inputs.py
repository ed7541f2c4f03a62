"""What a call with block masks reads and writes beside tensors."""

from __future__ import annotations

import ctypes as C
import sys
from typing import Any

from tokensieve import _abi, _tensor
from tokensieve._abi import ArgumentError
from tokensieve._block_mask import BlockMask
from tokensieve._blocks import BlockConfig
from tokensieve._call import Frame, Settings
from tokensieve._tiles import TILE, Tiles, pack


def given_settings(settings: Settings, mask: Any, q: _tensor.View, k: _tensor.View) -> Settings:
    """Those of a call that gives a mask and no BlockConfig."""
    num_masks = _checked(mask).num_masks
    axis = 1 if settings.layout == "bhsd" or settings.packed else 2
    shapes = [x.key[2] for x in (q, k)]
    heads = [shape[axis] if len(shape) > axis else 0 for shape in shapes]
    share = {1: "layer", heads[1]: "kv", heads[0]: "head"}.get(num_masks)
    if share is None:
        raise ArgumentError(f"the block mask has {num_masks} masks; allowed: one for each of "
                            f"{heads[0]} query heads, of {heads[1]} kv heads, or 1")
    return settings.but(blocks=BlockConfig(pattern="given", share=share))


class BlockInputs:
    """What the library reads of masks and their settings: alive until the call was made."""

    def __init__(self, mask: Any, scores: Any, thresholds: Any, sizes: Any) -> None:
        self.mask, self.scores, self.thresholds, self.sizes = mask, scores, thresholds, sizes
        self.alive: list[Any] = []

    def give_to(self, frame: Frame, q: _tensor.View, compact: bool) -> None:
        """Sets the pointers of the frame's inputs. compact: the tiles are those of given sets."""
        blocks = frame.settings.blocks
        self._refuse_unread("none" if blocks is None else blocks.pattern)
        inputs, info = frame.inputs, frame.plan.info
        if self.mask is not None:
            inputs.block_mask = self._mask(frame, q, compact)
        if self.scores is not None:
            shape = (frame.batch, info.num_masks, info.row_tiles, -(-frame.seqlen_kv // TILE))
            scores, inputs.block_scores = _tensor.floats(
                self.scores, q, "block_scores", shape, "batch, masks, row tiles, key tiles")
            self.alive.append(scores)
        if self.thresholds is not None and info.num_masks > 0:  # 0: no estimate can win
            thresholds, inputs.block_thresholds = _tensor.floats(
                self.thresholds, q, "block_thresholds", (info.num_masks,), "one for each mask")
            self.alive.append(thresholds)
        if self.sizes is not None and info.num_masks > 0:
            sizes, inputs.block_sizes = _tensor.as_integers(self.sizes, q, "block_sizes", 2, 32)
            _tensor.check_shape(sizes, "block_sizes", (info.num_masks, 2),
                                "two for each query head")
            self.alive.append(sizes)

    def _refuse_unread(self, pattern: str) -> None:
        """Raises ArgumentError for what a call with this pattern would ignore."""
        for name, value, readers in (
                ("block_mask", self.mask, ("given",)), ("block_scores", self.scores, ("scores",)),
                ("block_thresholds", self.thresholds,
                 ("scores", "flex", "pooled", "antidiagonal")),
                ("block_sizes", self.sizes, ("vertical_slash",))):
            if value is not None and pattern not in readers:
                raise ArgumentError(f"{name} was given, but the block pattern is {pattern}; give "
                                    f"blocks with pattern {' or '.join(readers)}, which reads it")

    def _mask(self, frame: Frame, q: _tensor.View, compact: bool) -> int:
        info = frame.plan.info
        bits = _fitted(_checked(self.mask), frame, compact)
        struct = struct_of(info, self._beside(bits, q))
        self.alive.append(struct)
        return C.addressof(struct)

    def _beside(self, bits: Any, q: _tensor.View) -> int:
        """The address of the bits beside q."""
        import numpy as np
        if q.cuda:
            torch = sys.modules["torch"]
            if isinstance(bits, np.ndarray):
                bits = torch.from_numpy(bits.view("int32"))
            bits = bits.to(q.key[1]).contiguous()
            self.alive.append(bits)
            return int(bits.data_ptr())
        if not isinstance(bits, np.ndarray):
            bits = host_bits(bits.cpu())
        bits = np.ascontiguousarray(bits)
        self.alive.append(bits)
        return int(bits.ctypes.data)


def _checked(mask: Any) -> BlockMask:
    if not isinstance(mask, BlockMask):
        raise ArgumentError(f"block_mask is a {type(mask).__name__}; allowed: a BlockMask")
    return mask


def host_bits(array: Any) -> Any:
    """int32 in host memory, of torch or NumPy, as uint32 of NumPy."""
    return (array.numpy() if hasattr(array, "numpy") else array).view("uint32")


def struct_of(info: Any, address: int) -> Any:
    """The C struct of a mask as large as the plan wants it."""
    struct = _abi.new(_abi.BlockMask)
    struct.bits, struct.num_masks = address, info.num_masks
    struct.row_tiles, struct.words = info.row_tiles, info.mask_words
    return struct


def _fitted(mask: BlockMask, frame: Frame, compact: bool) -> Any:
    """The mask's bits, for the batch and in the plan's size."""
    import numpy as np
    info, tiles = frame.plan.info, mask.tiles
    if mask.block_size != TILE:
        mask._tiles_128()  # says what to do
    whole = Tiles(info.row_tiles, -(-frame.seqlen_kv // TILE), frame.seqlen_kv - frame.seqlen_q)
    same = tiles == whole or (tiles[:2] == whole[:2] and (compact or frame.settings.packed))
    smaller = compact and tiles.rows <= whole.rows and tiles.columns <= whole.columns
    batch, masks = mask.bits.shape[:2]
    if not (same or smaller) or batch not in (1, frame.batch) or masks != info.num_masks:
        raise ArgumentError(
            f"the block mask is for {_words(batch, masks, tiles)}; the call has "
            f"{_words(frame.batch, info.num_masks, whole)}")
    bits = mask.bits
    if not same:
        every = np.zeros((batch, masks, *whole[:2]), dtype=bool)
        every[:, :, :tiles.rows, :tiles.columns] = mask.to_bool()
        bits = pack(every)
    if batch == frame.batch:
        return bits
    return (np.broadcast_to(bits, (frame.batch, *bits.shape[1:])) if isinstance(bits, np.ndarray)
            else bits.expand(frame.batch, -1, -1, -1))


def _words(batch: int, masks: int, tiles: Tiles) -> str:
    return (f"batch {batch}, {masks} masks, {tiles.rows} x {tiles.columns} tiles, the first row at "
            f"token {tiles.first_row}")
