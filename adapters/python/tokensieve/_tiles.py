"""Grids of tiles and their bits: src/core/tiles.h in NumPy."""

from __future__ import annotations

from typing import Any, NamedTuple

from tokensieve._abi import ArgumentError

TILE = 128


class Tiles(NamedTuple):
    """The tiles of a call's queries and keys."""

    rows: int  # row tiles; the first begins with the first query
    columns: int  # key tiles
    first_row: int  # tokens before the first query; -1: unknown, each row may see every tile

    @staticmethod
    def of(rows: int, columns: int, size: int, seqlen_q: int | None,
           seqlen_kv: int | None) -> Tiles:
        """The grid of so many blocks of `size` tokens; checks that the lengths have as many."""
        if not isinstance(size, int) or size not in (TILE, 64):
            raise ArgumentError(f"block_size is {size!r}; allowed: 128 and 64")
        keys = columns * size if seqlen_kv is None else _length("seqlen_kv", seqlen_kv)
        queries = keys if seqlen_q is None else _length("seqlen_q", seqlen_q)
        if seqlen_q is seqlen_kv is None and rows != columns:
            raise ArgumentError(f"the mask has {rows} row blocks and {columns} key blocks; give "
                                "seqlen_q and seqlen_kv of a call that is not a whole prompt")
        if (rows, columns) != (-(-queries // size), -(-keys // size)) or queries > keys:
            raise ArgumentError(
                f"the mask has {rows} x {columns} blocks of {size}; {queries} queries and {keys} "
                f"keys have {-(-queries // size)} x {-(-keys // size)}, and no more queries than "
                "keys")
        return Tiles(rows, columns, keys - queries)

    def ends(self, size: int = TILE) -> Any:
        """Of each row tile the first key tile that holds no visible pair: int64 [rows]."""
        import numpy as np
        if self.first_row < 0:
            return np.full(self.rows, self.columns)
        last = self.first_row + size * np.arange(1, self.rows + 1)
        return np.minimum(self.columns, -(-last // size))

    def visible(self, size: int = TILE) -> Any:
        """bool [rows, columns]: it holds a visible pair."""
        import numpy as np
        return np.arange(self.columns) < self.ends(size)[:, None]

    def below(self) -> Any:
        """bool [rows, columns]: all its pairs are visible."""
        import numpy as np
        diagonal = (max(self.first_row, 0) + TILE * np.arange(self.rows)) // TILE
        return np.arange(self.columns) < diagonal[:, None]


def checked(blocks: Any, grid: Tiles, size: int) -> Any:
    """bool [batch, masks, rows, columns] without a block above the diagonal."""
    above = blocks & ~grid.visible(size)
    if above.any():
        b, h, r, c = (int(x[0]) for x in above.nonzero())
        raise above_diagonal(b, h, r, c, grid, size)
    return blocks


def above_diagonal(b: int, h: int, r: int, c: int, grid: Tiles, size: int) -> ArgumentError:
    return ArgumentError(f"{place(b, h, r)} names key block {c}, above the diagonal; allowed: 0 to "
                         f"{int(grid.ends(size)[r]) - 1}")


def place(b: int, h: int, r: int) -> str:
    return f"row block {r} (batch {b}, head {h})"


def to_128(blocks: Any, grid: Tiles, size: int) -> tuple[Any, Tiles]:
    """Bits and grid of 128-tiles: one is set if a block of it is."""
    import numpy as np
    if size == TILE:
        return pack(blocks), grid
    rows, columns = -(-grid.rows // 2), -(-grid.columns // 2)
    even = np.zeros((*blocks.shape[:2], 2 * rows, 2 * columns), dtype=bool)
    even[:, :, :grid.rows, :grid.columns] = blocks
    pairs = even.reshape(*blocks.shape[:2], rows, 2, columns, 2)
    return pack(pairs.any(axis=(3, 5))), Tiles(rows, columns, grid.first_row)


def pack(blocks: Any) -> Any:
    """uint32 [..., words] of bool [..., columns]."""
    import numpy as np
    words = -(-blocks.shape[-1] // 32)
    padded = np.zeros((*blocks.shape[:-1], 32 * words), dtype=bool)
    padded[..., :blocks.shape[-1]] = blocks
    return np.packbits(padded, axis=-1, bitorder="little").view("<u4")


def unpack(bits: Any, columns: int) -> Any:
    """bool [..., columns] of uint32 [..., words]."""
    import numpy as np
    octets = np.ascontiguousarray(bits).view("u1")
    return np.unpackbits(octets, axis=-1, bitorder="little")[..., :columns].astype(bool)


def _length(name: str, tokens: Any) -> int:
    if not hasattr(tokens, "__index__") or not 1 <= tokens < 2**31:
        raise ArgumentError(f"{name} is {tokens!r}; allowed: an integer from 1 to 2^31 - 1")
    return int(tokens)
