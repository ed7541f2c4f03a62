"""What masks and arguments of transformers mean, wherever they come from."""

import pytest
import torch
import transformers
from test_hf import SPARSE, close, logits, make, reasons, tokens, twin
from transformers import DynamicCache, StaticCache

import tokensieve
import tokensieve.hf
from tokensieve.hf import forward
from tokensieve.hf.interface import attention_forward


def gemma4(implementation):
    """Layers 2 and 3 read the keys of 0 and 1, and drop the queries whose logits nobody wants."""
    torch.manual_seed(1)
    config = transformers.Gemma4TextConfig(
        vocab_size=256, hidden_size=64, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, global_head_dim=32,
        sliding_window=512, hidden_size_per_layer_input=16, vocab_size_per_layer_input=256,
        num_kv_shared_layers=2, pad_token_id=0,
        layer_types=["sliding_attention", "full_attention"] * 2)
    return transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=implementation).eval()


@torch.no_grad()
@pytest.mark.parametrize("more", [{}, dict(softcap=5.0), dict(s_aux=torch.zeros(4))])
def test_without_a_mask_queries_are_the_newest_tokens(more):
    module = torch.nn.Module().eval()
    q, k, v = (torch.randn(1, 4, 40, 16, generator=torch.Generator().manual_seed(i))
               for i in range(3))
    whole = attention_forward(module, q, k, v, None, **more)[0]
    newest = attention_forward(module, q[:, :, -5:], k, v, None, **more)[0]
    torch.testing.assert_close(newest, whole[:, -5:])
    last = attention_forward(module, q[:, :, -1:], k, v, None, **more)[0]
    torch.testing.assert_close(last, whole[:, -1:])


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("static", [False, True])
def test_models_that_drop_queries_after_the_mask_was_made(padded, static):
    ids = tokens(60, batch=2)
    mask = torch.ones_like(ids)
    mask[0, :10 * padded] = 0
    outs = []
    for model in (gemma4("sdpa"), gemma4("tokensieve")):
        outs.append(model(ids, attention_mask=mask, use_cache=False).logits[:, -5:])
        cache = StaticCache(model.config, max_cache_len=80) if static else DynamicCache()
        outs.append(model(ids, attention_mask=mask, past_key_values=cache, logits_to_keep=5).logits)
    for out in outs[1:]:
        close(out, outs[0])


def test_assisted_generation():
    more = dict(max_new_tokens=8, do_sample=False)
    model, draft = gemma4("tokensieve"), gemma4("sdpa")
    draft.generation_config.num_assistant_tokens = 4
    plain = draft.generate(tokens(40), **more)
    assert torch.equal(model.generate(tokens(40), **more), plain)
    assert torch.equal(model.generate(tokens(40), assistant_model=draft, **more), plain)


@torch.no_grad()
def test_a_static_cache_needs_no_mask(monkeypatch):
    """Which would be as long as prompt and cache."""
    model, seen = make(), []
    sdpa = forward.sdpa_attention_forward
    monkeypatch.setattr(forward, "sdpa_attention_forward", lambda module, q, k, v, mask, **more:
                        seen.append((k.shape[2], mask)) or sdpa(module, q, k, v, mask, **more))
    monkeypatch.setattr(tokensieve.hf.masks._Unmade, "__torch_dispatch__", None)
    cache = StaticCache(model.config, max_cache_len=300)
    with tokensieve.dense():
        out = model(tokens(200), past_key_values=cache).logits
    assert seen == [(200, None)] * 4
    close(out, logits(twin(model, "sdpa"), tokens(200)))


@torch.no_grad()
def test_a_static_cache_with_masks_of_every_kind():
    model, ids = make(), tokens(64, batch=2)
    other = twin(model, "sdpa")
    padding = torch.ones_like(ids)
    padding[1, :9] = 0
    for mask in (None, padding):
        outs = []
        for each in (model, other):
            cache = StaticCache(each.config, max_cache_len=100)
            outs.append(torch.cat([
                each(ids[:, begin:end], past_key_values=cache,
                     attention_mask=mask if mask is None else mask[:, :end]).logits
                for begin, end in ((0, 30), (30, 60), (60, 64))], dim=1)[padding.bool()])
        close(*outs)


@torch.no_grad()
def test_compiled_models_that_drop_queries():
    ids = tokens(60, batch=2)
    mask = torch.ones_like(ids)
    mask[0, :10] = 0
    model = gemma4("tokensieve")
    torch._dynamo.reset()
    graph = torch.compile(model, backend="eager", fullgraph=True)
    for more in ({}, dict(attention_mask=mask)):
        close(graph(ids, use_cache=False, logits_to_keep=5, **more).logits,
              model(ids, use_cache=False, logits_to_keep=5, **more).logits)


@torch.no_grad()
def test_selections_of_the_model_s_own_run_dense_and_are_applied():
    q, k, v = (torch.randn(2, 4, 20, 16, generator=torch.Generator().manual_seed(i))
               for i in range(3))
    module = make().model.layers[2].self_attn
    module.num_key_value_groups = 1
    tokensieve.hf.configure(module_of(module), select=SPARSE, min_tokens=1)
    chosen = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(i))[:12]
                          for i in range(40)]).reshape(2, 20, 12)
    chosen[:, :, 0] = torch.arange(20)  # each sees itself
    out = attention_forward(module, q, k, v, None, indices=chosen)[0]
    seen = torch.zeros(2, 20, 20, dtype=torch.bool).scatter(-1, chosen, True).tril()[:, None]
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen)
    close(out, expected.transpose(1, 2))
    assert tokensieve.hf.stats(module)[2].reasons == {"indices": 1}


def module_of(attention):
    """A part of a model with its configuration."""
    part = torch.nn.Module()
    part.config, part.attention = attention.config, attention
    return part


def test_unknown_arguments(caplog):
    tokensieve.hf.layer.said.clear()
    model = make()
    with pytest.raises(tokensieve.UnsupportedError,
                       match="LlamaAttention hands its attention a tensor 'extra_bias'.*'sdpa'"):
        logits(model, tokens(50), extra_bias=torch.zeros(1))
    for _ in range(2):
        logits(model, tokens(50), window_left=7, extra_bias=None)
    assert caplog.text.count("LlamaAttention hands its attention window_left=7, which has no") == 1
    assert set(reasons(model)) == {0, 1, 2, 3}
