"""Keys and values of a sequence, out of vLLM's pages. How pages are laid out is asked here only.

vLLM's CPU kernels keep keys in an order of their own, which depends on the instruction set, the
type and the release: by columns, or packed as AMX takes them. So nothing is assumed: vLLM's own
code stores a page of known values once, and where they lie is the layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tokensieve._abi import UnsupportedError

# Stores k and v [tokens, heads, dim] into pages [blocks, heads, size, 2 * dim] at slots [tokens].
Store = Callable[[Tensor, Tensor, Tensor, Tensor], None]


class Geometry(NamedTuple):
    """A page of the cache."""

    size: int  # tokens
    heads: int  # kv heads
    dim: int
    dtype: torch.dtype

    @staticmethod
    def of(cache: Tensor) -> Geometry:
        """That of a cache [blocks, heads, size, 2 * dim]."""
        return Geometry(cache.shape[2], cache.shape[1], cache.shape[3] // 2, cache.dtype)


class Reader:
    """Copies sequences out of pages of one geometry.

    Parameters
    ----------
    geometry : Geometry
    store : callable
        vLLM's own writer of pages.
    most_tokens : int
        Of the longest sequence. Memory for it is taken at once, not when a request needs it.

    Raises
    ------
    UnsupportedError
        Pages do not hold keys and values as they are (quantised, for example).
    """

    def __init__(self, geometry: Geometry, store: Store, most_tokens: int) -> None:
        size, heads, dim, dtype = geometry
        self.geometry = geometry
        self._order = _order(geometry, store)
        rows = -(-most_tokens // size) * size
        self._space = torch.empty(2, rows, heads, dim, dtype=dtype).zero_()

    def read(self, cache: Tensor, blocks: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """The first keys and values [tokens, heads, dim] of a sequence in these blocks; valid until
        the next call."""
        size, heads, dim, _ = self.geometry
        for i, block in enumerate(blocks[:-(-tokens // size)].tolist()):
            page = cache[block].reshape(heads, -1).index_select(1, self._order)
            self._space[:, i * size:(i + 1) * size] = page.view(heads, 2, size, dim).permute(
                1, 2, 0, 3)
        k, v = self._space[:, :tokens]
        return k, v


def _order(geometry: Geometry, store: Store) -> Tensor:
    """Where a head's elements lie in a page: its keys token by token, then its values."""
    size, heads, dim, dtype = geometry
    number = torch.arange(2 * size * dim).view(2, size, 1, dim).expand(2, size, heads, dim)
    cache = torch.zeros(1, heads, size, 2 * dim, dtype=dtype)
    found = torch.zeros(heads, 2 * size * dim, dtype=torch.int64)
    for bit in range((2 * size * dim - 1).bit_length()):  # zeros and ones are exact in every type
        k, v = (number >> bit & 1).to(dtype).contiguous()
        store(k, v, cache, torch.arange(size))
        found |= cache.view(heads, -1).round().long() << bit
    order = found[0].argsort()
    if not (torch.equal(found[0, order], torch.arange(len(order))) and (found == found[0]).all()):
        raise UnsupportedError(f"pages of {size} tokens, {heads} heads, head_dim {dim} and {dtype} "
                               "do not hold keys and values as they are")
    return order
