"""products=: exact, split and bf16 on emulated tiles, and why they are not had elsewhere."""

import numpy as np
import pytest
import reference
import torch

import tokensieve
from tokensieve import Profile, SelectConfig

F32_KEYS = "k and v are f32, of which split would keep 16 bits"
NO_TILES = "the instruction set has no matrix tiles"
ALLOWED = {"exact": 2e-6, "split": 2e-5, "bf16": 6e-3}  # rel-L2


def tensors(seq_q, seq_kv, dtype=np.float16, heads=4, kv_heads=2, dim=32):
    rng = np.random.default_rng(seq_q)
    q, k, v = (rng.standard_normal((1, s, h, dim), dtype=np.float32)
               for s, h in ((seq_q, heads), (seq_kv, kv_heads), (seq_kv, kv_heads)))
    return q, k.astype(dtype), v.astype(dtype)


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setenv("TOKENSIEVE_ISA", "amx_emulated")


@pytest.mark.parametrize("products", ["exact", "split", "bf16"])
@pytest.mark.parametrize("sizes", [(130, 130), (70, 141)])
def test_results_are_as_close_as_the_products_allow(emulated, products, sizes):
    q, k, v = tensors(*sizes)
    out, report = tokensieve.attention(q, k, v, products=products, return_report=True)
    assert report.products == products and report.products_reason == ""
    assert (report.isa == "amx_emulated") == (products != "exact")
    expected, _ = reference.attend(q, k, v, reference.causal(q, k))
    assert np.linalg.norm(out - expected) < ALLOWED[products] * np.linalg.norm(expected)


def test_packed_sequences_and_selection_have_them_too(emulated):
    q, k, v = tensors(200, 200)
    begins = np.array([0, 90, 200], dtype=np.int32)
    alone = [tokensieve.attention(*(x[:, a:b] for x in (q, k, v)), products="split")[0]
             for a, b in ((0, 90), (90, 200))]
    out, report = tokensieve.attention_varlen(q[0], k[0], v[0], begins, begins, products="split",
                                              return_report=True)
    assert report.products == "split"
    np.testing.assert_array_equal(out, np.concatenate(alone))
    select = SelectConfig(budget="keep_ratio", keep_ratio=0.3, min_keep=0, obs_window=32,
                          fill="local", local_window=64, dense_policy="never")
    kept = tokensieve.select_tokens(q, k, select=select, products="split")
    chosen, report = tokensieve.attention(q, k, v, select=select, products="split",
                                          return_report=True)
    given = tokensieve.attention(q, k, v, select=select, keep=kept, products="split")
    assert report.path == "sparse" and report.products == "split"
    np.testing.assert_array_equal(chosen, given)


def test_the_report_says_why_they_are_exact(monkeypatch):
    def reason(*arrays, **more):
        out, report = tokensieve.attention(*arrays, return_report=True, **more)
        assert report.products == "exact"
        np.testing.assert_array_equal(out, tokensieve.attention(*arrays, **{
            **more, "products": "exact"}))
        return report.products_reason

    f32 = tensors(50, 50, np.float32)
    assert reason(*f32) == reason(*f32, products="exact") == ""
    assert reason(*f32, products="split") == F32_KEYS
    assert reason(*tensors(50, 50), products="split", causal=False) == (
        "attention is not plainly causal")
    assert "cpu" in reason(*f32, products="bf16", backend="ref")
    monkeypatch.setenv("TOKENSIEVE_ISA", "baseline")
    assert reason(*tensors(51, 51), products="bf16") == NO_TILES
    assert tokensieve.info()["products"]["exact"] in tokensieve.info()["isas"]


def test_unknown_words_are_refused():
    q, k, v = tensors(8, 8)
    for call in (lambda: tokensieve.attention(q, k, v, products="fp16"),
                 lambda: tokensieve.select_tokens(q, k, select=SelectConfig(), products="fp16")):
        with pytest.raises(tokensieve.ArgumentError,
                           match="products is 'fp16'; allowed: auto, exact, split, bf16"):
            call()
    with pytest.raises(tokensieve.ArgumentError, match='products is "fp16"'):
        Profile((1,), SelectConfig(), products="fp16").to_json()


def test_profiles_have_them():
    profile = Profile((1, 2), SelectConfig(), products="split")
    assert '"products": "split"' in profile.to_json()
    assert Profile.parse(profile.to_json()) == profile
    assert profile.choose(1, 8192, 8192).products == profile.choose(0, 1, 8192).products == "split"
    assert "products" not in Profile((1,), SelectConfig()).to_json()


def test_compiled_functions_have_them():
    q, k, v = (torch.from_numpy(x) for x in tensors(60, 60, np.float32))
    compiled = torch.compile(lambda q, k, v: tokensieve.attention(q, k, v, products="bf16"),
                             fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(q, k, v), tokensieve.attention(q, k, v, products="bf16"),
                               rtol=0, atol=0)


def test_models_have_those_of_their_profile():
    import tokensieve.hf
    from test_hf import SPARSE, logits, make, tokens
    model = make()
    tokensieve.hf.configure(model, layers=(1, 2), select=SPARSE, min_tokens=0, products="split")
    logits(model, tokens())
    stats = tokensieve.hf.stats(model)
    assert stats[1].products == {f"exact ({F32_KEYS})": 1} and not stats[0].products
