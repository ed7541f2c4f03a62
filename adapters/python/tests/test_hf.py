"""transformers models on tiny random weights: tokensieve beside SDPA and eager."""

import concurrent.futures
import copy
import dataclasses
import importlib.util
import logging
import pathlib
import subprocess
import sys
import types

import pytest
import torch
import transformers
from transformers import AttentionInterface, DynamicCache
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

import tokensieve
import tokensieve.hf
from tokensieve import BlockConfig, SelectConfig

SMALL = dict(vocab_size=256, hidden_size=128, intermediate_size=128, num_hidden_layers=4,
             num_attention_heads=4, num_key_value_heads=2, head_dim=32,
             max_position_embeddings=2048, pad_token_id=0, bos_token_id=1, eos_token_id=None)
FAMILIES = {
    "Llama": {}, "Mistral": dict(sliding_window=None), "Qwen2": {}, "Qwen3": {}, "Phi3": {},
    "SmolLM3": {}, "Gemma": {},
    "Gemma2": dict(attn_logit_softcapping=5.0, sliding_window=64),
    "Gemma3Text": dict(sliding_window=64), "GptOss": dict(
        sliding_window=64, num_local_experts=2, num_experts_per_tok=1),
}
SPARSE = SelectConfig(budget="keep_ratio", keep_ratio=0.25, min_keep=16, obs_window=64,
                      local_window=64, fill="local", dense_policy="never")
ZERO_FILL = dataclasses.replace(SPARSE, fill="zero")  # chunks keep all their queries

NOT_LISTED, SHORT = "layer not in the profile", "prompt shorter than min_tokens"


def make(family="Llama", implementation="tokensieve", **more):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        **{**SMALL, **FAMILIES[family], **more}, attn_implementation=implementation)
    name = {"Gemma3Text": "Gemma3"}.get(family, family)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():  # attention that depends on its keys
        for key, weight in model.named_parameters():
            if "q_proj" in key or "k_proj" in key or "qkv_proj" in key:
                weight.mul_(8.0)
    return model


def twin(model, implementation):
    other = copy.deepcopy(model)
    other.set_attn_implementation(implementation)
    return other


def tokens(length=512, batch=1, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 256, (batch, length), generator=generator)


@torch.no_grad()
def logits(model, ids, **more):
    return model(ids, use_cache=False, **more).logits


def close(a, b, tolerance=2e-4):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=1e-3)


def reasons(model):
    return {layer: dict(s.reasons) for layer, s in tokensieve.hf.stats(model).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_selection_off_equals_the_model_s_own_attention(family):
    model = make(family)
    # Eager where SDPA leaves out softcap or sinks.
    other = twin(model, "eager" if family in ("Gemma2", "GptOss") else "sdpa")
    tokensieve.hf.configure(model, select=SelectConfig(enabled=False), layers=range(1, 4),
                            min_tokens=1)
    for ids in (tokens(100), tokens(130, batch=2)):
        close(logits(model, ids), logits(other, ids))
    ids = tokens(40, batch=2)
    padding = torch.ones_like(ids)
    padding[0, :10] = 0
    real = padding.bool()
    close(logits(model, ids, attention_mask=padding)[real],
          logits(other, ids, attention_mask=padding)[real])
    with tokensieve.dense():
        close(logits(model, tokens(100)), logits(other, tokens(100)))


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma2", "GptOss"])
def test_sparse_layers_equal_the_oracle(family):
    model = make(family)
    tokensieve.hf.configure(model, select=SPARSE, min_tokens=256)
    sparse = logits(model, tokens(batch=2))
    stats = tokensieve.hf.stats(model)
    ran = {layer for layer, s in stats.items() if s.sparse}
    assert ran and ran <= {2, 3} and 0 < stats[max(ran)].seconds
    for layer in ran:
        assert stats[layer].keep_ratio == pytest.approx((112 + 64) / 512)
    assert reasons(model)[0] == {NOT_LISTED: 1}

    def oracle(module, query, key, value, mask, scaling=None, softcap=None, s_aux=None, **kwargs):
        if module.layer_idx not in ran:
            return tokensieve.hf.interface.attention_forward(
                module, query, key, value, mask, scaling=scaling, softcap=softcap, s_aux=s_aux,
                **kwargs)
        out = tokensieve.attention(query, key, value, select=SPARSE, sm_scale=scaling,
                                   softcap=softcap or 0.0, sink_logits=s_aux, layout="bhsd",
                                   backend="ref")
        return out.transpose(1, 2), None

    AttentionInterface.register("oracle", oracle)
    AttentionMaskInterface.register("oracle", sdpa_mask)
    close(sparse, logits(twin(model, "oracle"), tokens(batch=2)), 2e-3)
    dense = logits(twin(model, "eager"), tokens(batch=2))
    assert (sparse - dense).abs().max() > 0.01


def test_generate_and_streaming():
    model = make()
    other = twin(model, "sdpa")
    ids = tokens(300)
    more = dict(max_new_tokens=8, do_sample=False)
    with tokensieve.dense():
        assert torch.equal(model.generate(ids, **more), other.generate(ids, **more))
    tokensieve.hf.reset_stats(model)
    tokensieve.hf.configure(model, select=SPARSE, min_tokens=256)
    streamed = []

    class Streamer:
        def put(self, value):
            streamed.append(value.flatten())

        def end(self):
            streamed.append(torch.tensor([-1]))

    plain = model.generate(ids, streamer=Streamer(), **more)
    assert plain.shape == (1, 308)
    assert torch.equal(torch.cat(streamed), torch.cat([plain[0], torch.tensor([-1])]))
    stats = tokensieve.hf.stats(model)
    assert [s.sparse for s in stats.values()] == [0, 0, 1, 1]
    assert all(s.calls == 8 and s.reasons["decode"] == 7 for s in stats.values())
    static = model.generate(ids, cache_implementation="static", disable_compile=True, **more)
    assert torch.equal(static, plain)
    assert [s.sparse for s in tokensieve.hf.stats(model).values()] == [0, 0, 2, 2]


@torch.no_grad()
def test_chunks_keep_the_newest_rows_exact():
    model, ids = make(), tokens(512)
    other = twin(model, "sdpa")
    tokensieve.hf.configure(model, select=ZERO_FILL, layers=[3], min_tokens=300)
    cache, dense_cache = DynamicCache(config=model.config), DynamicCache(config=model.config)
    for chunk in ids.split(256, dim=1):
        mine = model(chunk, past_key_values=cache).logits
        theirs = other(chunk, past_key_values=dense_cache).logits
    layer = tokensieve.hf.stats(model)[3]
    assert layer.sparse == 1 and dict(layer.reasons) == {SHORT: 1}
    close(mine[:, -64:], theirs[:, -64:])
    assert (mine[:, :192] - theirs[:, :192]).abs().max() > 0.01


@torch.no_grad()
def test_short_chunks_run_dense():
    """As in llama.cpp: a chunk of less than four observation windows is not worth a selection."""
    model, ids = make(), tokens(600)
    other = twin(model, "sdpa")
    tokensieve.hf.configure(model, select=SPARSE, layers=[3], min_tokens=300)
    cache, dense_cache = DynamicCache(config=model.config), DynamicCache(config=model.config)
    for chunk in ids.split([345, 255], dim=1):
        with tokensieve.sparse(layers=[3] if chunk.shape[1] == 255 else []):
            mine = model(chunk, past_key_values=cache).logits
        theirs = other(chunk, past_key_values=dense_cache).logits
        close(mine, theirs)
    assert reasons(model)[3] == {NOT_LISTED: 1, "few rows": 1}


@torch.no_grad()
@pytest.mark.parametrize("fill, of_chunk", [
    ("zero", dict(queries="all", protect_first=4)), ("local", {})])
def test_settings_of_chunks_are_the_library_s(monkeypatch, fill, of_chunk):
    """With zero fill only earlier keys are dropped, never the first: attention sinks live there."""
    model, ids, select = make(), tokens(600), dataclasses.replace(SPARSE, fill=fill)
    tokensieve.hf.configure(model, select=select, layers=[3], min_tokens=300)
    selects = []
    attend = tokensieve.hf.forward._attend.attend
    monkeypatch.setattr(tokensieve.hf.forward._attend, "attend", lambda q, k, v, settings, *a, **b:
                        selects.append(settings.select) or attend(q, k, v, settings, *a, **b))
    cache = DynamicCache(config=model.config)
    for chunk in ids.split(300, dim=1):
        model(chunk, past_key_values=cache)
    assert selects == [select, dataclasses.replace(select, **of_chunk)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_sequences_are_what_they_are_alone(side):
    model, ids = make(), tokens(300, batch=3)
    tokensieve.hf.configure(model, select=SPARSE, min_tokens=200)
    lengths = (300, 220, 90)  # the last one is too short to be sparse
    padding = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        padding[row, slice(0, length) if side == "right" else slice(300 - length, 300)] = 1
    together = logits(model, ids, attention_mask=padding)
    stats = tokensieve.hf.stats(model)
    assert [s.sparse for s in stats.values()] == [0, 0, 1, 1]
    kept = (59 + 64) + (39 + 64) + 90  # a quarter of the prefix and the observation window
    assert stats[2].keep_ratio == pytest.approx(kept / sum(lengths))
    for row in range(3):
        real = padding[row].bool()
        close(together[row, real], logits(model, ids[row:row + 1, real])[0], 2e-3)
    assert not together.isnan().any()


def test_measured_work_is_that_of_all_pairs():
    model, ids = make(), tokens(300, batch=3)
    tokensieve.hf.configure(model, select=SPARSE, min_tokens=200)
    lengths = (300, 220, 90)
    padding = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        padding[row, :length] = 1
    with tokensieve.hf.measure() as together:
        logits(model, ids, attention_mask=padding)
    computed = pairs = 0
    for row, length in enumerate(lengths):
        with tokensieve.hf.measure() as alone:
            logits(model, ids[row:row + 1, :length])
        pairs += length * (length + 1) / 2
        computed += alone[3].work * length * (length + 1) / 2
    assert together[3].work == pytest.approx(computed / pairs, rel=1e-3)
    assert computed < 0.9 * pairs and together[0].work == 1


def test_tiles_of_padded_sequences_are_those_of_all():
    model, ids = make(), tokens(900, batch=2)
    blocks = BlockConfig(pattern="vertical_slash", verticals=30, slashes=100)
    tokensieve.hf.configure(model, select=dataclasses.replace(SPARSE, keep_ratio=0.75),
                            min_tokens=200, blocks=blocks)
    padding = torch.ones_like(ids)
    padding[1, 600:] = 0
    with tokensieve.hf.measure() as together:
        logits(model, ids, attention_mask=padding)
    stats = tokensieve.hf.stats(model)[3]
    assert stats.masked == 1 and stats.block_density == pytest.approx(together[3].block_density)
    visited = pairs = 0.0
    for row, length in enumerate((900, 600)):
        with tokensieve.hf.measure() as alone:
            logits(model, ids[row:row + 1, :length])
        pairs += length * (length + 1) / 2
        visited += alone[3].block_density * length * (length + 1) / 2
    assert together[3].block_density == pytest.approx(visited / pairs, rel=1e-3)
    assert visited < 0.99 * pairs
    # The calls alone had masks as well.
    assert tokensieve.hf.stats(model)[3].masked == 3


@torch.no_grad()
def test_a_chunk_of_padding():
    model, ids = make(), tokens(512)
    tokensieve.hf.configure(model, select=SPARSE, layers=[3], min_tokens=200)
    padding = torch.ones_like(ids)
    padding[:, 256:] = 0
    cache = DynamicCache(config=model.config)
    for begin in (0, 256):
        out = model(ids[:, begin:begin + 256], attention_mask=padding[:, :begin + 256],
                    past_key_values=cache)
    assert not out.logits.isnan().any()
    assert reasons(model)[3] == {"only padding": 1}


@torch.no_grad()
def test_padded_chunks():
    model, ids = make(), tokens(512, batch=2)
    other = twin(model, "sdpa")
    tokensieve.hf.configure(model, select=ZERO_FILL, layers=[3], min_tokens=300)
    padding = torch.ones_like(ids)
    padding[1, :100] = 0
    cache, dense_cache = DynamicCache(config=model.config), DynamicCache(config=model.config)
    for begin in (0, 256):
        mask = padding[:, :begin + 256]
        chunk = ids[:, begin:begin + 256]
        mine = model(chunk, attention_mask=mask, past_key_values=cache).logits
        theirs = other(chunk, attention_mask=mask, past_key_values=dense_cache).logits
    assert tokensieve.hf.stats(model)[3].sparse == 1
    close(mine[:, -64:], theirs[:, -64:])
    for row in range(2):
        assert (mine[row, :192] - theirs[row, :192]).abs().max() > 0.01


def test_reasons_for_dense():
    model = make("Gemma3Text")
    tokensieve.hf.configure(model, select=SPARSE, layers=range(1, 4), min_tokens=100)
    sliding = [t == "sliding_attention" for t in model.config.layer_types]
    assert any(sliding[1:])
    logits(model, tokens(200))
    for layer in range(1, 4):
        assert reasons(model)[layer] == ({"sliding layer": 1} if sliding[layer] else {})

    model = make()
    tokensieve.hf.configure(model, select=SPARSE, layers=[2], min_tokens=100)
    holes = torch.ones(2, 200, dtype=torch.long)
    holes[1, 50:60] = 0
    for call, reason in [
            (lambda: logits(model, tokens(200, 2), attention_mask=holes),
             "custom mask"),
            (lambda: logits(model, tokens(50)), SHORT),
            (lambda: logits(model, tokens(1)), "decode"),
            (lambda: logits(copy_double(model), tokens(200)), None),
            (lambda: with_dense(model), "switched off"),
            (lambda: model(tokens(200)).logits.sum().backward(), "needs gradients")]:
        tokensieve.hf.reset_stats(model)
        call()
        if reason:
            assert reasons(model)[2] == {reason: 1}
    assert model.model.layers[2].self_attn.q_proj.weight.grad.abs().sum() > 0


def copy_double(model):
    other = copy.deepcopy(model).double()
    tokensieve.hf.configure(other, select=SPARSE, layers=[2], min_tokens=100)
    logits(other, tokens(200))
    assert reasons(other)[2] == {"unsupported dtype": 1}
    return other


def with_dense(model):
    with tokensieve.dense():
        logits(model, tokens(200))


def test_odd_head_dim_runs_dense_and_says_so(caplog):
    tokensieve.hf.layer.said.clear()
    model = make(head_dim=24)
    tokensieve.hf.configure(model, select=SPARSE, layers=[2], min_tokens=100)
    for _ in range(2):
        close(logits(model, tokens(200)), logits(twin(model, "sdpa"), tokens(200)))
    (reason,) = reasons(model)[2]
    assert "head_dim is 24" in reason
    assert caplog.text.count("run dense through SDPA, since head_dim is 24") == 1


def test_training_has_the_gradients_of_sdpa_and_says_so_once(caplog):
    tokensieve.hf.layer.said.clear()
    model = make().train()
    other = twin(model, "sdpa")
    tokensieve.hf.configure(model, select=SPARSE, layers=[2, 3], min_tokens=100)
    for module in (model, other):
        for _ in range(2):
            module(tokens(200), labels=tokens(200)).loss.backward()
    for mine, theirs in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert caplog.text.count("a model in training mode runs dense through SDPA") == 1
    assert reasons(model)[2] == {"training": 2}
    model.eval()(tokens(200))
    assert caplog.text.count("tensors that need gradients run dense through SDPA") == 1


@pytest.mark.parametrize("module, text", [
    (types.ModuleType("transformers"), "cannot import name 'AttentionInterface'"),  # an old one
    (None, "transformers")])
def test_import_names_what_is_missing(monkeypatch, module, text):
    monkeypatch.setitem(sys.modules, "transformers", module)
    spec = importlib.util.spec_from_file_location("again", tokensieve.hf.__file__)
    with pytest.raises(ImportError, match=f"needs torch and transformers 5 .*{text}"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_bfloat16():
    model = make().bfloat16()
    tokensieve.hf.configure(model, select=SelectConfig(enabled=False), layers=[2], min_tokens=1)
    mine, theirs = logits(model, tokens(200)), logits(twin(model, "sdpa"), tokens(200))
    assert mine.dtype == torch.bfloat16
    assert (mine.float() - theirs.float()).norm() < 0.01 * theirs.float().norm()


def test_from_pretrained_and_threads(tmp_path):
    make(implementation="sdpa").save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path,
                                                              attn_implementation="tokensieve")
    tokensieve.hf.configure(model, select=SPARSE, min_tokens=100)
    expected = logits(model, tokens(200))
    tokensieve.set_num_threads(2)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for result in pool.map(lambda _: logits(model, tokens(200)), range(8)):
                assert torch.equal(result, expected)
    finally:
        tokensieve.set_num_threads(0)
    assert tokensieve.hf.stats(model)[3].sparse == 9


def test_example():
    script = pathlib.Path(__file__).parents[3] / "examples/python/long_prompt.py"
    done = subprocess.run([sys.executable, script, "--tokens", "4100", "--layers", "3"],
                          check=True, text=True, capture_output=True, timeout=900)
    assert "layer  2  kept 28.1%" in done.stdout, done.stdout


def test_contexts_override_the_policy():
    model = make()
    tokensieve.hf.configure(model, select=SPARSE, min_tokens=100)
    with tokensieve.sparse(layers=[0, 1], keep_ratio=0.5):
        logits(model, tokens())
    stats = tokensieve.hf.stats(model)
    assert [s.sparse for s in stats.values()] == [0, 1, 0, 0]
    assert stats[1].keep_ratio == pytest.approx((224 + 64) / 512)
    with tokensieve.sparse(min_tokens=10000):
        logits(model, tokens())
    assert reasons(model)[2] == {NOT_LISTED: 1, SHORT: 1}


def test_contexts_may_name_layers_that_a_model_lacks():
    model = make()
    tokensieve.hf.configure(model, min_tokens=100)
    with tokensieve.sparse(layers=range(3, 99), min_keep=16, dense_policy="never"):
        logits(model, tokens())
    assert [s.sparse for s in tokensieve.hf.stats(model).values()] == [0, 0, 0, 1]


def test_layers_that_the_profile_sets_apart():
    model = make()
    half, quarter = (dataclasses.replace(SPARSE, budget="keep_ratio", keep_ratio=ratio)
                     for ratio in (0.5, 0.25))
    profile = tokensieve.Profile((1, 2, 3), half, 100, layer_select=(((2,), quarter),))
    tokensieve.hf.configure(model, profile)
    logits(model, tokens())
    ratios = [s.keep_ratio for s in tokensieve.hf.stats(model).values()]
    assert ratios == [None] + [pytest.approx((kept + 64) / 512) for kept in (224, 112, 224)]
    tokensieve.hf.reset_stats(model)
    with tokensieve.sparse(keep_ratio=0.75):
        logits(model, tokens())
    assert tokensieve.hf.stats(model)[2].keep_ratio == pytest.approx((336 + 64) / 512)
    tokensieve.hf.reset_stats(model)
    tokensieve.hf.configure(model, profile, select=quarter)
    logits(model, tokens())
    assert tokensieve.hf.stats(model)[1].keep_ratio == pytest.approx((112 + 64) / 512)


@pytest.mark.parametrize("select", [
    SelectConfig(enabled=False, dense_policy="never"),
    dataclasses.replace(SPARSE, keep_ratio=0.75)])
def test_blocks(select):
    """Alone and over selected tokens; with every tile they change nothing."""
    model, ids = make(), tokens(900)
    tokensieve.hf.configure(model, select=select, layers=[1, 3], min_tokens=100)
    with tokensieve.hf.measure() as plain:
        expected = logits(model, ids)
    few = BlockConfig(pattern="pooled", alpha=1.0, sink_tiles=1, window_tiles=1, last_tiles=0)
    for blocks, all_tiles in ((dataclasses.replace(few, alpha=0.0), True), (few, False)):
        profile = tokensieve.Profile((1, 3), select, 100, blocks=blocks)
        tokensieve.hf.configure(model, select=select, layers=[1, 3], min_tokens=100, blocks=blocks)
        with tokensieve.hf.measure() as layers:
            out = logits(model, ids)
        assert torch.equal(out, expected) == all_tiles
        for layer in (1, 3):
            assert (layers[layer].work == plain[layer].work) == all_tiles
            assert layers[layer].work <= plain[layer].work
            stats = tokensieve.hf.stats(model)[layer]
            assert stats.masked == (0 if all_tiles else 1)
            assert layers[layer].block_density == (stats.block_density or 1.0)
            assert (layers[layer].block_density == 1.0) == all_tiles
        assert layers[0].block_density == 1 and tokensieve.hf.stats(model)[0].block_density is None
        tokensieve.hf.configure(model, profile)
        assert torch.equal(logits(model, ids), out)
    tokensieve.hf.configure(model, select=select, layers=[1, 3], min_tokens=100)
    assert torch.equal(logits(model, ids), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_override_of_a_call(family):
    model = make(family)
    tokensieve.hf.configure(model, select=SPARSE, layers=[3], min_tokens=100)
    logits(model, tokens(100), tokensieve=False)
    assert all(r == {"switched off": 1} for r in reasons(model).values())
    model.generate(tokens(100), max_new_tokens=2, tokensieve=tokensieve.dense(), do_sample=False)
    assert all(r == {"switched off": 3} for r in reasons(model).values())


def test_override_of_a_call_beats_the_context():
    model = make()
    tokensieve.hf.configure(model, select=SPARSE, layers=[3], min_tokens=100)
    with tokensieve.dense():
        with tokensieve.sparse(layers=[1]) as nothing:
            assert nothing is None
            logits(model, tokens(), tokensieve=tokensieve.sparse(keep_ratio=0.5))
        logits(model, tokens())
    stats = tokensieve.hf.stats(model)
    assert [s.sparse for s in stats.values()] == [0, 0, 0, 1]
    assert stats[3].keep_ratio == pytest.approx((224 + 64) / 512)
    assert stats[3].reasons == {"switched off": 1}
    logits(model, tokens(), tokensieve=dataclasses.replace(SPARSE, keep_ratio=1.0))
    assert stats[3].sparse == 1 and stats[3].calls == 3
    with pytest.raises(tokensieve.ArgumentError, match="tokensieve is a dict; allowed: False"):
        logits(model, tokens(), tokensieve={"tau": 0.1})


def test_without_a_profile_says_so_once(caplog, monkeypatch):
    tokensieve.hf.layer.said.clear()
    monkeypatch.delenv("TOKENSIEVE_PROFILE", raising=False)
    model = make()
    with caplog.at_level(logging.WARNING, "tokensieve"):
        logits(model, tokens(50))
        logits(model, tokens(50))
    assert [r.message for r in caplog.records if "no profile" in r.message] == [
        "tokensieve: no profile for this llama model: layers 2 to 3 run sparse with keep_ratio "
        "0.2, one set per layer and local fill (tokensieve.hf.configure changes it)"]
    assert reasons(model)[1] == {NOT_LISTED: 2} and reasons(model)[2] == {SHORT: 2}


def test_profiles(monkeypatch, tmp_path):
    with pytest.raises(tokensieve.ArgumentError, match=r"num_layers 4 \(profile: 30\)"):
        tokensieve.hf.configure(make(), "smollm2")
    with pytest.raises(tokensieve.ArgumentError, match="layers has 9; allowed: 1 to 3"):
        tokensieve.hf.configure(make(), layers=[9])
    file = tmp_path / "p.json"
    file.write_text('{"tokensieve_profile": 1, "fingerprint": {"architecture": "llama", '
                    '"num_layers": 4}, "sparse_layers": [1], "min_tokens": 200, "select": '
                    '{"budget": "keep_ratio", "keep_ratio": 0.1, "min_keep": 16, '
                    '"obs_window": 32, "share": "layer"}}')
    monkeypatch.setenv("TOKENSIEVE_PROFILE", str(file))
    model = make()
    with tokensieve.sparse(dense_policy="never"):
        logits(model, tokens())
    assert [s.sparse for s in tokensieve.hf.stats(model).values()] == [0, 1, 0, 0]


def test_measured_profile(tmp_path):
    model = make()
    with torch.no_grad():  # a layer that changes little, and one that changes a lot
        for layer, factor in ((2, 0.01), (1, 10.0)):
            model.model.layers[layer].self_attn.o_proj.weight.mul_(factor)
            model.model.layers[layer].mlp.down_proj.weight.mul_(factor)
    inputs = [tokens(64)[0], tokens(100, batch=2)]
    profile = tokensieve.hf.profile(model, inputs, delta=0.4, select=SPARSE, name="tiny")
    # The same from the hidden states that the model itself returns.
    expected = torch.zeros(4, dtype=torch.float64)
    for ids in (inputs[0][None], inputs[1]):
        with torch.no_grad():
            for layer in range(4):
                before, after = hidden_states(model, ids, layer)
                expected[layer] += ((after - before).norm(dim=-1) / before.norm(dim=-1)).sum()
    assert torch.tensor(profile.drift) == pytest.approx(expected / expected.sum(), rel=1e-4)
    assert 2 in profile.sparse_layers and 1 not in profile.sparse_layers
    file = tmp_path / "tiny.json"
    profile.save(file)
    loaded = tokensieve.Profile.load(file)
    assert loaded == dataclasses.replace(
        profile, select=dataclasses.replace(SPARSE, dense_policy="break_even"))
    tokensieve.hf.configure(model, loaded)
    with pytest.raises(tokensieve.ArgumentError, match="inputs is empty"):
        tokensieve.hf.profile(model, [])
    with pytest.raises(tokensieve.ArgumentError, match="tokenizer"):
        tokensieve.hf.profile(model, ["text"])


def hidden_states(model, ids, layer):
    seen = []
    hook = model.model.layers[layer].register_forward_hook(
        lambda module, args, output: seen.extend([args[0], output]))
    model(ids)
    hook.remove()
    return seen


def test_shipped_profiles_fit_their_models():
    config = transformers.MistralConfig(hidden_size=5120, num_hidden_layers=40,
                                        num_attention_heads=32, num_key_value_heads=8,
                                        head_dim=128)
    tokensieve.Profile.load("mistral-nemo-12b").check(tokensieve.hf.fingerprint(config))
    config = transformers.LlamaConfig(hidden_size=4096, num_hidden_layers=32,
                                      num_attention_heads=32, num_key_value_heads=8)
    tokensieve.Profile.load("llama-3.1-8b").check(tokensieve.hf.fingerprint(config))
