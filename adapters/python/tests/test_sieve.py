"""tokensieve.sieve around other people's attention."""

import functools

import pytest
import reference
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


FLEX = functools.partial(flex_attention, enable_gqa=True)


@pytest.mark.parametrize("share, heads, keep_ratio", [
    ("head", None, 0.3), ("kv", None, 0.3), ("layer", None, 0.3), ("layer", 4, 0.3),
    ("layer", None, 1.0)])
def test_block_masks(share, heads, keep_ratio):
    """Against float64 NumPy: kept, causal and in a block that is seen."""
    q, k, v = tensors()
    select = SelectConfig(share=share, budget="keep_ratio", keep_ratio=keep_ratio, min_keep=16,
                          obs_window=64, dense_policy="never")
    generator = torch.Generator().manual_seed(1)
    blocks = torch.rand(*([heads] if heads else []), 13, 13, generator=generator) < 0.5
    out = tokensieve.sieve(FLEX, select=select,
                           block_mask=tokensieve.BlockMask(blocks, block_size=50))(q, k, v)
    plain = [x.transpose(1, 2).numpy() for x in (q, k, v)]
    allowed = reference.causal(*plain[:2]).copy()
    if keep_ratio < 1:
        allowed &= reference.allowed_rows(*plain[:2], select, reference.kept(*plain[:2], select))
    at = torch.arange(640) // 50
    allowed &= blocks[..., at[:, None], at].numpy()
    expected, _ = reference.attend(*plain, allowed)
    torch.testing.assert_close(out.transpose(1, 2).double(), torch.from_numpy(expected), atol=2e-5,
                               rtol=1e-4)
    assert (out == 0).all(dim=-1).any()


@pytest.mark.parametrize("share", ["head", "layer"])
def test_a_sparse_kernel_over_the_kept_rows(share):
    """Whoever estimates its mask from what it gets composes as the library does: FlexAttention."""
    q, k, v = tensors(seq=1300)
    blocks = tokensieve.BlockConfig(pattern="antidiagonal", threshold=0.6)

    def attend(q, k, v):
        mask = tokensieve.estimate_blocks(q, k, blocks=blocks, layout="bhsd", backend="ref")
        lengths = dict(seqlen_q=q.shape[2], seqlen_kv=k.shape[2])
        return flex_attention(q, k, v, block_mask=mask.to_flex(q.shape[1], **lengths),
                              enable_gqa=True)

    select = SelectConfig(share=share, budget="keep_ratio", keep_ratio=0.5, min_keep=16,
                          obs_window=64, dense_policy="never")
    expected, report = tokensieve.attention(q, k, v, select=select, blocks=blocks, layout="bhsd",
                                            backend="ref", return_report=True)
    assert report.path == "sparse" and report.block_density < 1
    out = tokensieve.sieve(attend, select=select)(q, k, v)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)


def test_block_mask_of_a_dense_call_and_of_a_batch():
    q, k, v = tensors(seq=300)
    blocks = torch.stack([torch.ones(3, 3), torch.eye(3)])[:, None]
    out = tokensieve.sieve(FLEX, block_mask=tokensieve.BlockMask(blocks))(q, k, v)
    torch.testing.assert_close(out[0], SDPA(q, k, v)[0], atol=2e-5, rtol=1e-4)
    part = [x[1:, :, 128:256] for x in (q, k, v)]
    torch.testing.assert_close(out[1:, :, 128:256], SDPA(*part), atol=2e-5, rtol=1e-4)


def test_block_mask_skips_blocks():
    """Whole blocks that nothing sees are not computed; whole ones that everything sees need no
    mask."""
    blocks = torch.ones(8, 8).tril()
    blocks[7, 2:5] = 0
    mask = tokensieve.BlockMask(blocks).over(torch.arange(1024)[None], 0, 4)
    assert mask.kv_num_blocks.tolist() == [[[1] * 8]]  # the diagonal
    assert mask.full_kv_num_blocks.tolist() == [[[0, 1, 2, 3, 4, 5, 6, 4]]]


def test_compiled_flex_attention():
    """attn_fn may be compiled; Inductor writes a C++ kernel here."""
    q, k, v = tensors(batch=1)
    select = SelectConfig(share="layer", budget="keep_ratio", keep_ratio=0.3, min_keep=16,
                          obs_window=64, dense_policy="never")
    mask = tokensieve.BlockMask(torch.ones(5, 5).tril() - torch.ones(5, 5).tril(-3))
    compiled = functools.partial(torch.compile(flex_attention), enable_gqa=True)
    outs = [tokensieve.sieve(attn_fn, select=select, block_mask=mask)(q, k, v)
            for attn_fn in (compiled, FLEX)]
    torch.testing.assert_close(*outs, atol=2e-5, rtol=1e-4)


def test_dense_calls_go_to_the_kernel():
    q, k, v = tensors(seq=100)
    torch.testing.assert_close(tokensieve.sieve(SDPA)(q, k, v), SDPA(q, k, v))


def test_inside_a_compiled_function():
    """Graph breaks at the calls, none inside of the library."""
    q, k, v = tensors()
    select = SelectConfig(share="layer", budget="keep_ratio", keep_ratio=0.3, min_keep=16,
                          obs_window=64, dense_policy="never")
    attend = tokensieve.sieve(SDPA, select=select)

    def function(q, k, v):
        kept = tokensieve.select_tokens(q, k, select=select, layout="bhsd")
        return attend(q * 2, k, v) + 1, kept.count

    breaks = torch._dynamo.explain(function)(q, k, v).break_reasons
    assert breaks and all(b.user_stack[-1].name == "function" for b in breaks)
    for mine, theirs in zip(torch.compile(function, backend="eager")(q, k, v), function(q, k, v)):
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)


def test_errors():
    q, k, v = tensors(seq=100)
    with pytest.raises(tokensieve.ArgumentError, match="fill is local"):
        tokensieve.sieve(SDPA, select=SelectConfig(fill="local"))
    for blocks, size, text in [(torch.ones(3), 8, "blocks has shape"),
                               (torch.ones(2, 3), 8, "blocks has shape"),
                               (torch.ones(2, 2), 0, "block_size is 0")]:
        with pytest.raises(tokensieve.ArgumentError, match=text):
            tokensieve.BlockMask(blocks, size)
    for blocks, text in [(torch.ones(2, 2), "at least 13 blocks"),
                         (torch.ones(3, 13, 13), "heads 1 or 4")]:
        with pytest.raises(tokensieve.ArgumentError, match=text):
            tokensieve.sieve(SDPA, block_mask=tokensieve.BlockMask(blocks, 8))(q, k, v)
    with pytest.raises(tokensieve.ArgumentError, match="with one seq"):
        tokensieve.sieve(SDPA)(q[:, :, :50], k, v)
