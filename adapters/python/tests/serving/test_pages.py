"""Keys and values out of pages, whatever their layout, without vLLM."""

import pytest
import torch
from tokensieve import UnsupportedError
from tokensieve.vllm.pages import Geometry, Reader


def rows(k, size, dim):
    return k.reshape(size * dim)


def columns(k, size, dim):
    return k.transpose(0, 1).reshape(size * dim)


def tiles(k, size, dim):  # as AMX takes bf16: two neighbours of a column side by side
    return k.view(size // 16, 16, dim // 2, 2).permute(0, 2, 1, 3).reshape(size * dim)


def store_by(order_k, order_v, swapped=False):
    """A writer of pages [blocks, heads, size, 2 * dim], as vLLM has one for each kernel."""
    def store(k, v, cache, slots):
        blocks, heads, size, twice = cache.shape
        for block in slots.unflatten(0, (-1, size))[:, 0].div(size, rounding_mode="floor").tolist():
            at = (slots == block * size).nonzero().item()
            for head in range(heads):
                halves = [order(x[at:at + size, head], size, twice // 2)
                          for order, x in ((order_k, k), (order_v, v))]
                cache[block, head] = torch.cat(halves[::-1] if swapped else halves).view(size, -1)
    return store


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("store", [store_by(rows, rows), store_by(columns, rows),
                                   store_by(tiles, columns), store_by(rows, tiles, swapped=True)])
def test_any_layout(store, dtype):
    size, heads, dim, tokens = 32, 2, 16, 3 * 32 - 5
    cache = torch.full((8, heads, size, 2 * dim), float("nan"), dtype=dtype)
    blocks = torch.tensor([5, 2, 7, 0], dtype=torch.int32)  # the last one is not the sequence's
    k, v = torch.randn(2, 3 * size, heads, dim).to(dtype)
    slots = (blocks[:3, None] * size + torch.arange(size)).reshape(-1).long()
    store(k, v, cache, slots)
    reader = Reader(Geometry.of(cache), store, most_tokens=tokens)
    for _ in range(2):  # nothing is left of a first call
        read_k, read_v = reader.read(cache, blocks, tokens)
        assert torch.equal(read_k, k[:tokens]) and torch.equal(read_v, v[:tokens])


def lossy(k, v, cache, slots):
    cache.copy_(torch.cat([k, v], dim=-1).transpose(0, 1)[None].clamp(max=0.5))


def not_by_head(k, v, cache, slots):
    store_by(rows, rows)(k, v, cache, slots)
    cache[:, 1] = cache[:, 1].flip(-1)


@pytest.mark.parametrize("store", [lossy, not_by_head])
def test_pages_that_hold_something_else_are_refused(store):
    with pytest.raises(UnsupportedError, match="pages of 32 tokens, 2 heads, head_dim 16"):
        Reader(Geometry(32, 2, 16, torch.float32), store, 64)
