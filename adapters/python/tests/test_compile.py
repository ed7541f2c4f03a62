"""torch.compile: whole graphs, sparse inside, the same results as eager code."""

import pytest
import torch
from test_hf import SHORT, SPARSE, close, make, tokens, twin
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from transformers import CompileConfig, DynamicCache, StaticCache

import tokensieve
import tokensieve.hf
import tokensieve.ops
from tokensieve import SelectConfig


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    assert not counters["graph_break"]


def compiled(function):
    counter = CompileCounter()
    return torch.compile(function, fullgraph=True, backend=counter), counter


def sparse_model(family="Llama", **more):
    model = make(family, num_hidden_layers=2, **more)
    tokensieve.hf.configure(model, select=SPARSE, layers=[1], min_tokens=256)
    return model


@torch.no_grad()
def same_as_eager(model, graph, ids, **more):
    """Checks logits and counts; returns those of layer 1."""
    results = []
    for function in (model, graph):
        tokensieve.hf.reset_stats(model)
        out = function(ids, **more).logits
        stats = tokensieve.hf.stats(model)
        for layer in stats.values():
            layer.seconds = 0.0
        results.append((out, stats))
    (expected, eager_stats), (out, stats) = results
    torch.testing.assert_close(out, expected, atol=0, rtol=0)
    assert stats == eager_stats
    return stats[1]


# Gemma 2: softcap, a sliding layer 0.
@pytest.mark.parametrize("family, use_cache", [("Llama", True), ("Gemma2", False)])
def test_one_graph_is_sparse_inside(family, use_cache):
    model = sparse_model(family)
    graph, counter = compiled(model)

    def run(**more):
        return same_as_eager(model, graph, tokens(400), use_cache=use_cache, **more)

    assert run().sparse == 1
    # Policies and contexts are those of the call, whatever they were when it was compiled.
    with tokensieve.dense():
        assert run().reasons == {"switched off": 1}
    with tokensieve.sparse(keep_ratio=0.5):
        assert run().keep_ratio == pytest.approx((168 + 64) / 400)
    tokensieve.hf.configure(model, select=SPARSE, layers=[1], min_tokens=401)
    assert run().reasons == {SHORT: 1}
    assert counter.frame_count == 1
    # An override of one call is a constant of the graph: one graph for equal settings.
    for _ in range(2):
        assert run(tokensieve=tokensieve.sparse(min_tokens=400)).sparse == 1
    assert counter.frame_count == 2


def test_masks():
    model = sparse_model()
    graph, counter = compiled(model)
    ids, ones = tokens(400, batch=2), torch.ones(2, 400, dtype=torch.long)
    padding, holes = ones.clone(), ones.clone()
    padding[0, :100], holes[0, 200:210] = 0, 0
    assert same_as_eager(model, graph, ids, attention_mask=ones).sparse == 1
    assert same_as_eager(model, graph, ids, attention_mask=padding).sparse == 1
    assert same_as_eager(model, graph, ids, attention_mask=padding.flip(1)).sparse == 1
    assert same_as_eager(model, graph, ids, attention_mask=holes).reasons == {"custom mask": 1}
    assert counter.frame_count == 1
    # Packed sequences and a mask of the caller's own.
    positions = torch.cat([torch.arange(150), torch.arange(250)])[None]
    packed = dict(position_ids=positions, use_cache=False)
    assert same_as_eager(model, graph, ids[:1], **packed).reasons == {"custom mask": 1}
    own = torch.ones(400, 400, dtype=torch.bool).tril()[None, None]
    assert same_as_eager(model, graph, ids[:1], attention_mask=own).reasons == {"custom mask": 1}


@torch.no_grad()
@pytest.mark.parametrize("static", [False, True])
def test_chunks(static):
    model = sparse_model()
    tokensieve.hf.configure(model, select=SPARSE, layers=[1], min_tokens=300)
    graph, _ = compiled(model)
    results = []
    for function in (model, graph):
        tokensieve.hf.reset_stats(model)
        cache = (StaticCache(config=model.config, max_cache_len=600) if static
                 else DynamicCache(config=model.config))
        parts = [function(ids, past_key_values=cache).logits
                 for ids in (*tokens(512).split(256, dim=1), tokens(1))]
        results.append(torch.cat(parts, dim=1))
        layer = tokensieve.hf.stats(model)[1]
        assert layer.sparse == 1 and layer.reasons[SHORT] == 1
        assert layer.reasons["decode"] == (function is model)  # graphs do not count it
    close(results[1], results[0], 1e-5)


def test_generate_compiles_decode():
    model = sparse_model()
    ids = tokens(300)
    expected = model.generate(ids, max_new_tokens=4, do_sample=False)
    tokensieve.hf.reset_stats(model)
    config = CompileConfig(backend="eager", mode=None, fullgraph=True)
    config._compile_all_devices = True
    out = model.generate(ids, max_new_tokens=4, do_sample=False, cache_implementation="static",
                         compile_config=config)
    assert torch.equal(out, expected)
    assert tokensieve.hf.stats(model)[1].sparse == 1
    assert counters["stats"]["unique_graphs"] > 0


def test_training_runs_dense_and_says_so(caplog):
    tokensieve.hf.layer.said.clear()
    model = sparse_model()
    other = twin(model, "sdpa")
    for function in (torch.compile(model, fullgraph=True, backend="eager"), other):
        function(tokens(300)).logits.square().mean().backward()
    mine, theirs = (m.model.layers[1].self_attn.q_proj.weight.grad for m in (model, other))
    assert theirs.abs().max() > 0
    torch.testing.assert_close(mine, theirs)
    assert "forward only" in caplog.text


def attend(q, k, v, select):
    return tokensieve.attention(q * 2, k, v, select=select, layout="bhsd") + 1


def tensors(seq=640):
    return [torch.randn(1, heads, seq, 32, generator=torch.Generator().manual_seed(heads))
            for heads in (4, 2, 2)]


def test_attention_is_an_operator():
    select = SelectConfig(budget="keep_ratio", keep_ratio=0.25, min_keep=16, obs_window=64,
                          dense_policy="never")
    for backend in ("eager", "aot_eager"):
        graph = torch.compile(attend, fullgraph=True, backend=backend, dynamic=True)
        for settings in (select, None):
            torch.testing.assert_close(graph(*tensors(), settings), attend(*tensors(), settings),
                                       atol=0, rtol=0)
    q, k, v = (x.transpose(1, 2) for x in tensors())
    torch.library.opcheck(torch.ops.tokensieve.attention.default, (q, k, v, None, select.text))


def test_operator_errors():
    q, k, v = tensors(20)
    operator = torch.ops.tokensieve.attention
    with pytest.raises(tokensieve.ArgumentError, match="forward only"):
        operator(q.clone().requires_grad_(), k, v, layout="bhsd")
    with pytest.raises(tokensieve.ArgumentError, match="select is 'tau'"):
        operator(q, k, v, select="tau")
    with pytest.raises(tokensieve.ArgumentError, match="tao"):
        operator(q, k, v, select='{"tao": 1}')
    with pytest.raises(tokensieve.ArgumentError, match="num_q_heads"):
        operator(k, q, v, layout="bhsd")
    with pytest.raises(RuntimeError, match="forward only"):
        torch.compile(attend, fullgraph=True, backend="aot_eager")(
            q.clone().requires_grad_(), k, v, None)
    with pytest.raises(tokensieve.ArgumentError, match="blocks is 'flex'.*BlockConfig"):
        operator(q, k, v, blocks="flex")
    with pytest.raises(RuntimeError, match="return_report, out, keep and group are not"):
        torch.compile(lambda: tokensieve.attention(q, k, v, out=q), backend="eager",
                      fullgraph=True)()
