"""tokensieve.sieve around other people's attention."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import tokensieve
from tokensieve import SelectConfig

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
SDPA = functools.partial(F.scaled_dot_product_attention, is_causal=True, enable_gqa=True)


def flex(q, k, v):
    mask = create_block_mask(lambda b, h, i, j: j <= i, None, None, q.shape[2], k.shape[2],
                             device="cpu")
    return flex_attention(q, k, v, block_mask=mask, enable_gqa=True)


def tensors(batch=2, seq=640, heads=4, kv_heads=2, dim=32):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(batch, h, seq, dim, generator=generator)
            for h in (heads, kv_heads, kv_heads)]


@pytest.mark.parametrize("share", ["head", "kv", "layer"])
@pytest.mark.parametrize("budget", [dict(budget="keep_ratio", keep_ratio=0.3), dict(tau=0.4)])
@pytest.mark.parametrize("attn_fn", [SDPA, flex], ids=["sdpa", "flex"])
def test_equals_the_library(share, budget, attn_fn):
    q, k, v = tensors()
    select = SelectConfig(share=share, min_keep=16, obs_window=64, dense_policy="never", **budget)
    expected, report = tokensieve.attention(q, k, v, select=select, layout="bhsd",
                                            return_report=True)
    assert report.path == "sparse"
    out = tokensieve.sieve(attn_fn, select=select)(q, k, v)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)
    assert (out == 0).all(dim=-1).sum() > 100


def test_dense_calls_go_to_the_kernel():
    q, k, v = tensors(seq=100)
    torch.testing.assert_close(tokensieve.sieve(SDPA)(q, k, v), SDPA(q, k, v))


def test_errors():
    q, k, v = tensors(seq=100)
    with pytest.raises(tokensieve.ArgumentError, match="fill is local"):
        tokensieve.sieve(SDPA, select=SelectConfig(fill="local"))
    with pytest.raises(tokensieve.ArgumentError, match="with one seq"):
        tokensieve.sieve(SDPA)(q[:, :, :50], k, v)
