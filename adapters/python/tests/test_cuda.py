"""The package on a GPU: binding, transformers adapter, sieve. Skipped without a Hopper GPU.

Library built elsewhere: TOKENSIEVE_LIBRARY=build/bin/libtokensieve.so PYTHONPATH=adapters/python
python3 -m pytest adapters/python/tests/test_cuda.py
"""

import dataclasses
import functools

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
import transformers
from test_hf import make, reasons, tokens, twin
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import DynamicCache

import tokensieve
import tokensieve.hf
from tokensieve import SelectConfig

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available()
                       or tokensieve.info()["backends"]["cuda"] != "available",
                       reason="no Hopper GPU, or a build without CUDA"),
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")]
SPARSE = dict(budget="keep_ratio", keep_ratio=0.25, min_keep=16, obs_window=64, local_window=128,
              dense_policy="never")
HF_SPARSE = SelectConfig(**{**SPARSE, "local_window": 64}, fill="local")


def tensors(seed, batch=1, seq_q=640, seq_kv=640, heads=4, kv_heads=2, dim=64,
            dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, s, h, dim, generator=generator).to(DEVICE, dtype)
            for s, h in ((seq_q, heads), (seq_kv, kv_heads), (seq_kv, kv_heads))]


def numbers(*given):
    return [x.float().cpu().numpy() for x in given]


def near(mine, theirs, tolerance):
    """Relative difference of two tensors: rounding adds up over a model's layers, and tokens that
    are nearly tied may be chosen otherwise."""
    mine, theirs = mine.float().cpu(), theirs.float().cpu()
    assert (mine - theirs).norm() < tolerance * theirs.norm()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 3e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("sizes, more", [
    (dict(), {}),
    (dict(dim=128, heads=8), {}),
    (dict(dim=256, seq_q=200, seq_kv=200), {}),
    (dict(batch=2, seq_q=7, seq_kv=130, heads=3, kv_heads=1), dict(sm_scale=0.3)),
    (dict(seq_q=65, seq_kv=65), dict(softcap=2.0)),
    (dict(seq_q=40, seq_kv=90), dict(sink_logits=[0.5, -1.0, 2.0, 0.0])),
])
def test_dense(dtype, tolerance, sizes, more):
    q, k, v = tensors(1, dtype=dtype, **sizes)
    out, report = tokensieve.attention(q, k, v, return_report=True, **more)
    expected, _ = reference.attend(*numbers(q, k, v), reference.causal(*numbers(q, k)),
                                   more.get("sm_scale"), more.get("softcap", 0.0),
                                   more.get("sink_logits"))
    assert out.device == q.device and out.dtype == dtype and report.backend == "cuda"
    np.testing.assert_allclose(*numbers(out), expected, atol=tolerance)


@pytest.mark.parametrize("fill", ["zero", "local"])
@pytest.mark.parametrize("share", ["head", "kv", "layer"])
def test_sparse(fill, share):
    q, k, v = tensors(2, batch=2)
    select = SelectConfig(fill=fill, share=share, **SPARSE)
    chosen = tokensieve.select_tokens(q, k, select=select)
    sets = [[row[:count].cpu().numpy() for row in sequence]
            for sequence, count in zip(chosen.indices, chosen.count.tolist())]
    for mine, theirs in zip(sum(sets, []), sum(reference.kept(*numbers(q, k), select), [])):
        assert len(mine) == len(theirs)  # scores are float32 there, so a tie may fall otherwise
        assert len(np.intersect1d(mine, theirs)) >= len(theirs) - 2
    out, report = tokensieve.attention(q, k, v, select=select, return_report=True)
    expected, _ = reference.attend(
        *numbers(q, k, v), reference.allowed_rows(*numbers(q, k), select, sets))
    np.testing.assert_allclose(*numbers(out), expected, atol=2e-2)
    assert report.path == "sparse" and report.keep_ratio == pytest.approx((144 + 64) / 640)
    assert report.keep_count == int(chosen.count.sum())


def test_layouts_strides_and_out():
    q, k, v = tensors(3)
    select = SelectConfig(fill="local", **SPARSE)
    expected = tokensieve.attention(q, k, v, select=select)
    heads_first = [x.transpose(1, 2).contiguous() for x in (q, k, v)]
    out = tokensieve.attention(*heads_first, select=select, layout="bhsd")
    assert torch.equal(out.transpose(1, 2), expected)
    given = torch.full_like(expected, float("nan"))
    assert tokensieve.attention(q, k, v, select=select, out=given) is given
    assert torch.equal(given, expected)
    packed = torch.cat([q, k, v], dim=2)  # q, k and v as views of one projection
    views = packed.split([4, 2, 2], dim=2)
    assert torch.equal(tokensieve.attention(*views, select=select), expected)


def test_calls_go_to_the_current_stream():
    q, k, v = tensors(4, seq_q=2048, seq_kv=2048)
    select = SelectConfig(**SPARSE)
    expected = tokensieve.attention(q, k, v, select=select)
    torch.cuda.synchronize()
    late = torch.zeros_like(q)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # some 25 ms: a call on another stream would read zeros
        late.copy_(q)
        out = tokensieve.attention(late, k, v, select=select)
    side.synchronize()
    assert torch.equal(out, expected)


def test_a_cuda_graph_replays_with_other_contents():
    q, k, v = tensors(5)
    select = SelectConfig(fill="local", share="layer", **SPARSE)
    out = torch.empty_like(q)
    tokensieve.attention(q, k, v, select=select, out=out)  # plans are made outside
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokensieve.attention(q, k, v, select=select, out=out)
    for seed in (6, 7):
        other = tensors(seed)
        for x, y in zip((q, k, v), other):
            x.copy_(y)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, tokensieve.attention(*other, select=select))


@pytest.mark.parametrize("select", [None, SelectConfig(**SPARSE), SelectConfig(
    fill="local", share="layer", **SPARSE)])
def test_packed_sequences(select):
    lengths = (700, 1, 640)
    q, k, v = (x[0] for x in tensors(10, seq_q=sum(lengths), seq_kv=sum(lengths)))
    begins = torch.tensor([0, *lengths], device=DEVICE).cumsum(0)
    for longest in ((), (700, 700)):
        out = tokensieve.attention_varlen(q, k, v, begins, begins, *longest, select=select)
        expected = [tokensieve.attention(*(x[None] for x in part), select=select)[0]
                    for part in zip(*(x.split(lengths) for x in (q, k, v)))]
        near(out, torch.cat(expected), 5e-3)
    with pytest.raises(tokensieve.UnsupportedError, match="kv_indices"):
        tokensieve.attention(q[None], k[None], v[None], kv_indices=torch.arange(1341)[None])


def test_memory_is_given_back():
    q, k, v = tensors(8, seq_q=4096, seq_kv=4096)
    select = SelectConfig(**SPARSE)
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        tokensieve.attention(q, k, v, select=select)
    assert torch.cuda.memory_allocated() == before


def test_errors():
    q, k, v = tensors(9, seq_q=100, seq_kv=100)
    with pytest.raises(tokensieve.UnsupportedError, match="f16 or bf16"):
        tokensieve.attention(q.float(), k.float(), v.float())
    with pytest.raises(tokensieve.UnsupportedError, match="head_dim is 32"):
        tokensieve.attention(*(x[..., :32] for x in (q, k, v)))
    with pytest.raises(tokensieve.UnsupportedError, match="causal is false"):
        tokensieve.attention(q, k, v, causal=False)
    with pytest.raises(tokensieve.ArgumentError, match="k is on cpu, q on cuda"):
        tokensieve.attention(q, k.cpu(), v)
    with pytest.raises(tokensieve.ArgumentError, match="backend is cpu, the tensors are on cuda"):
        tokensieve.attention(q, k, v, backend="cpu")


# ---- sieve ---------------------------------------------------------------------------------------


def flex(q, k, v):
    mask = create_block_mask(lambda b, h, i, j: j <= i, None, None, q.shape[2], k.shape[2],
                             device=DEVICE)
    return flex_attention(q, k, v, block_mask=mask, enable_gqa=True)


@pytest.mark.parametrize("attn_fn", [
    functools.partial(F.scaled_dot_product_attention, is_causal=True, enable_gqa=True), flex],
    ids=["sdpa", "flex"])
@pytest.mark.parametrize("share", ["head", "kv", "layer"])
def test_sieve(attn_fn, share):
    q, k, v = (x.transpose(1, 2) for x in tensors(10, batch=2))
    select = SelectConfig(share=share, **SPARSE)
    expected = tokensieve.attention(q, k, v, select=select, layout="bhsd")
    out = tokensieve.sieve(attn_fn, select=select)(q, k, v)
    torch.testing.assert_close(out, expected, atol=2e-2, rtol=2e-2)


# ---- transformers --------------------------------------------------------------------------------


def on_device(family="Llama", dtype=torch.float16, **more):
    model = make(family, head_dim=64, **more).to(DEVICE, dtype)
    tokensieve.hf.configure(model, select=HF_SPARSE, min_tokens=256)
    return model


@torch.no_grad()
def logits(model, ids, **more):
    return model(ids.to(model.device), use_cache=False, **more).logits


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma2", "GptOss"])
def test_selection_off_equals_the_model_s_own_attention(family):
    model = on_device(family)
    other = twin(model, "eager" if family in ("Gemma2", "GptOss") else "sdpa")
    tokensieve.hf.configure(model, select=SelectConfig(enabled=False), layers=range(1, 4),
                            min_tokens=1)
    near(logits(model, tokens(300, batch=2)), logits(other, tokens(300, batch=2)), 0.03)
    off = {"selection is off": 1}
    assert off in reasons(model).values()


def test_sparse_layers_are_those_of_the_cpu():
    model = on_device()
    sparse = logits(model, tokens(batch=2))
    assert [s.sparse for s in tokensieve.hf.stats(model).values()] == [0, 0, 1, 1]
    on_cpu = make(head_dim=64).half()
    tokensieve.hf.configure(on_cpu, select=HF_SPARSE, min_tokens=256)
    dense = logits(twin(model, "sdpa"), tokens(batch=2))
    lost = float((sparse - dense).float().norm() / dense.float().norm())
    assert lost > 0.1
    near(sparse, logits(on_cpu, tokens(batch=2)), lost / 3)


def test_padding_chunks_and_static_caches():
    model, ids = on_device(), tokens(512, batch=2).to(DEVICE)
    padding = torch.ones_like(ids)
    padding[1, :100] = 0
    together = logits(model, ids, attention_mask=padding)
    for row in range(2):
        real = padding[row].bool()
        near(together[row, real], logits(model, ids[row:row + 1, real])[0], 0.15)
    # Zero fill answers every query of a chunk, its newest ones from all tokens.
    tokensieve.hf.configure(model, select=dataclasses.replace(HF_SPARSE, fill="zero"), layers=[3],
                            min_tokens=300)
    other = twin(model, "sdpa")
    caches = [DynamicCache(config=model.config) for _ in range(2)]
    with torch.no_grad():
        for begin in (0, 256):
            mine, theirs = (m(ids[:, begin:begin + 256], attention_mask=padding[:, :begin + 256],
                              past_key_values=cache).logits
                            for m, cache in zip((model, other), caches))
    near(mine[:, -64:], theirs[:, -64:], 0.03)
    assert (mine[:, :192] - theirs[:, :192]).float().norm() / theirs[:, :192].float().norm() > 0.05
    tokensieve.hf.configure(model, select=HF_SPARSE, min_tokens=256)
    tokensieve.hf.reset_stats(model)
    more = dict(attention_mask=torch.ones_like(ids[:1]), max_new_tokens=8, do_sample=False)
    plain = model.generate(ids[:1], **more)
    static = model.generate(ids[:1], cache_implementation="static", disable_compile=True, **more)
    assert torch.equal(plain, static)
    assert [s.sparse for s in tokensieve.hf.stats(model).values()] == [0, 0, 2, 2]


def test_what_the_gpu_cannot_do_runs_dense():
    model = make(head_dim=32).to(DEVICE, torch.bfloat16)  # the CPU can
    tokensieve.hf.configure(model, select=HF_SPARSE, layers=[2], min_tokens=100)
    near(logits(model, tokens(200)), logits(twin(model, "sdpa"), tokens(200)), 0.03)
    assert "head_dim is 32" in next(iter(reasons(model)[2]))
    model = on_device(dtype=torch.float32)
    near(logits(model, tokens(300)), logits(twin(model, "sdpa"), tokens(300)), 1e-3)
    assert "f16 or bf16" in next(iter(reasons(model)[2]))


def test_measure_waits_for_what_the_device_knows():
    model = on_device()
    logits(model, tokens())
    assert tokensieve.hf.stats(model)[3].keep_ratio is None
    with tokensieve.hf.measure() as layers:
        logits(model, tokens())
    assert list(layers) == [0, 1, 2, 3]
    assert layers[3].keep_ratio == pytest.approx((112 + 64) / 512)
    assert 0.4 < layers[3].work < 0.6 and layers[0].work == 1
    assert all(layer.seconds > 0 for layer in layers.values())


def test_compiled():
    model = on_device()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    near(logits(compiled, tokens()), logits(model, tokens()), 1e-3)
    assert tokensieve.hf.stats(model)[3].sparse == 2


def test_pipeline_of_a_whole_model(tmp_path):
    make(head_dim=64, implementation="sdpa").bfloat16().save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="tokensieve", dtype=torch.bfloat16).to(DEVICE)
    tokensieve.hf.configure(model, select=HF_SPARSE, min_tokens=256)
    out = model.generate(tokens(300).to(DEVICE), max_new_tokens=4, do_sample=False,
                         attention_mask=torch.ones(1, 300, dtype=torch.long, device=DEVICE))
    assert out.shape == (1, 304) and tokensieve.hf.stats(model)[3].sparse == 1
