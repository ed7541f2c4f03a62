"""attention(keep=...): given sets, against what the library chooses and against NumPy."""

import numpy as np
import pytest
import reference
import torch

import tokensieve
from tokensieve import KeptTokens, SelectConfig

TOKENS, WINDOW = 400, 64
CHOOSE = dict(budget="keep_ratio", keep_ratio=0.25, min_keep=16, obs_window=WINDOW,
              local_window=64, dense_policy="never")


def tensors(seed, batch=1, seq_q=TOKENS, heads=4, kv_heads=2, dim=32):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, s, h, dim), dtype=np.float32)
            for s, h in ((seq_q, heads), (TOKENS, kv_heads), (TOKENS, kv_heads))]


@pytest.mark.parametrize("share", ["head", "layer"])
@pytest.mark.parametrize("fill", ["zero", "local"])
def test_the_chosen_sets_give_the_same_bits(fill, share):
    q, k, v = tensors(1, batch=2)
    select = SelectConfig(fill=fill, share=share, **CHOOSE)
    kept = tokensieve.select_tokens(q, k, select=select)
    out = tokensieve.attention(q, k, v, select=select)
    np.testing.assert_array_equal(tokensieve.attention(q, k, v, select=select, keep=kept), out)
    # Torch tensors in the other layout, and more room than the sets need.
    room = torch.full((2, kept.indices.shape[1], TOKENS), -1)
    room[:, :, :kept.indices.shape[2]] = torch.from_numpy(kept.indices)
    turned = [torch.from_numpy(x).transpose(1, 2) for x in (q, k, v)]
    given = tokensieve.attention(*turned, select=select, layout="bhsd",
                                 keep=KeptTokens(room, torch.from_numpy(kept.count)))
    np.testing.assert_array_equal(given.transpose(1, 2).numpy(), out)
    # The next call of the same shape chooses again.
    np.testing.assert_array_equal(tokensieve.attention(q, k, v, select=select), out)


@pytest.mark.parametrize("prefix", [0, 5, 200])
def test_any_tokens(prefix):
    """Fewer tokens than min_keep, whatever budget and break-even would say."""
    q, k, v = tensors(2)
    select = SelectConfig(share="layer", fill="local", obs_window=WINDOW, local_window=64)
    rng = np.random.default_rng(3)
    tokens = np.concatenate([np.sort(rng.permutation(TOKENS - WINDOW)[:prefix]),
                             np.arange(TOKENS - WINDOW, TOKENS)])
    keep = KeptTokens(tokens[None, None], np.array([len(tokens)]))
    out, report = tokensieve.attention(q, k, v, select=select, keep=keep, return_report=True)
    assert (report.path, report.keep_count) == ("sparse", len(tokens))
    expected, _ = reference.attend(q, k, v, reference.allowed_rows(q, k, select, [[tokens]]))
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_dense_counts_and_reasons():
    q, k, v = tensors(4, batch=2)
    select = SelectConfig(share="layer", **CHOOSE)
    kept = tokensieve.select_tokens(q, k, select=select)
    kept.count[1] = TOKENS
    out = tokensieve.attention(q, k, v, select=select, keep=kept)
    dense = tokensieve.attention(q, k, v)
    np.testing.assert_array_equal(out[1], dense[1])
    assert not np.array_equal(out[0], dense[0])
    off = tokensieve.select_tokens(q, k, select=SelectConfig(enabled=False))
    np.testing.assert_array_equal(tokensieve.attention(q, k, v, select=select, keep=off), dense)


def test_errors():
    q, k, v = tensors(5)
    select = SelectConfig(share="layer", **CHOOSE)
    kept = tokensieve.select_tokens(q, k, select=select)

    def refuse(words, keep, **more):
        with pytest.raises(tokensieve.ArgumentError, match=words):
            tokensieve.attention(q, k, v, **{"select": select, "keep": keep, **more})

    refuse("without select", kept, select=None)
    refuse("keep is a list", [1, 2])
    refuse("allowed: .1, 4, capacity", kept, select=SelectConfig(share="head", **CHOOSE))
    refuse("2 dimensions; allowed: 3", KeptTokens(kept.indices[0], kept.count))
    wrong = kept.indices.copy()
    wrong[0, 0, 3] = wrong[0, 0, 2]
    refuse(r"keep.indices\[0, 0, 3\]", KeptTokens(wrong, kept.count))
    refuse("does not end with the last 64", KeptTokens(kept.indices, kept.count - 1))
    refuse(r"keep.count\[0\] is 1;", KeptTokens(kept.indices, np.array([1])))
