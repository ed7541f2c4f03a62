"""What is known of a layer belongs to its module: copies, replicas, parts of models, training."""

import copy
import pickle

import pytest
import torch
import transformers
from test_hf import NOT_LISTED, SHORT, SPARSE, close, logits, make, reasons, tokens, twin

import tokensieve
import tokensieve.hf


@pytest.fixture
def model():
    model = make()
    tokensieve.hf.configure(model, select=SPARSE, layers=[2], min_tokens=100)
    return model


@pytest.mark.parametrize("copied", [
    copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
def test_copies_have_the_profile_and_statistics_of_their_own(model, copied):
    expected = logits(model, tokens(200))
    other = copied(model)
    assert tokensieve.hf.stats(other) == {}
    assert torch.equal(logits(other, tokens(200)), expected)
    assert tokensieve.hf.stats(other)[2].sparse == tokensieve.hf.stats(model)[2].sparse == 1
    tokensieve.hf.configure(other, select=SPARSE, layers=[3], min_tokens=100)
    logits(model, tokens(200))
    assert tokensieve.hf.stats(model)[2].sparse == 2
    assert dict(tokensieve.hf.stats(other)[2].reasons) == {}


class Group:
    """As a ProcessGroup, which can be neither copied nor pickled."""

    def __reduce__(self):
        raise TypeError("cannot pickle")


def test_a_copy_keeps_the_group(model):
    group = Group()
    tokensieve.hf.configure(model, layers=[2], group=group)
    other = copy.deepcopy(model).model.layers[2].self_attn
    assert tokensieve.hf.layer._of(other).group is group
    assert tokensieve.hf.layer._of(pickle.loads(pickle.dumps(other))).group is None


def test_replicas_count_where_the_model_counts(model):
    """As DataParallel makes them for every forward."""
    attention = model.model.layers[2].self_attn
    seen = []
    hook = attention.register_forward_hook(lambda module, args, kwargs, output: seen.append(kwargs),
                                           with_kwargs=True)
    expected = logits(model, tokens(200))
    hook.remove()
    assert expected.isfinite().all()
    replica = attention._replicate_for_data_parallel()
    for name, part in attention.named_children():
        setattr(replica, name, part)
    with torch.no_grad():
        replica(**seen[0])
    assert tokensieve.hf.stats(model)[2].sparse == 2


def test_images_are_not_layers_of_the_text_model():
    sizes = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(image_size=32, patch_size=8, **sizes),
        text_config=transformers.LlamaConfig(vocab_size=200, **sizes), image_token_index=199,
        image_seq_length=16, vision_feature_layer=-1, vision_feature_select_strategy="full")
    model = transformers.LlavaForConditionalGeneration._from_config(
        config, attn_implementation="tokensieve").eval()
    tokensieve.hf.configure(model, select=SPARSE, layers=[1], min_tokens=100)
    ids = tokens(200).clamp(max=198)
    ids[0, :16] = 199
    logits(model, ids, pixel_values=torch.randn(1, 3, 32, 32))
    stats = tokensieve.hf.stats(model)
    assert [s.calls for s in stats.values()] == [1, 1] and stats[1].sparse == 1


def test_self_and_cross_attention_are_counted_together():
    config = transformers.WhisperConfig(
        vocab_size=256, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=0,
        max_source_positions=150, num_mel_bins=8, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1)
    models = [transformers.WhisperForConditionalGeneration(config).eval()]
    models.append(twin(models[0], "tokensieve"))
    tokensieve.hf.configure(models[1], select=SPARSE, layers=[1], min_tokens=100)
    features = torch.randn(1, 8, 300)
    outs = [logits(model, features, decoder_input_ids=tokens(200))
            for model in models]
    stats = tokensieve.hf.stats(models[1])
    assert {layer: (s.calls, s.sparse, dict(s.reasons)) for layer, s in stats.items()} == {
        0: (2, 0, {NOT_LISTED: 2}), 1: (2, 1, {"not causal": 1})}
    with tokensieve.dense():
        close(logits(models[1], features, decoder_input_ids=tokens(200)),
              outs[0])


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_of_checkpoints_are_those_of_sdpa(reentrant):
    """Reentrant ones run the first pass without gradients."""
    model = make().train()
    tokensieve.hf.configure(model, select=SPARSE, layers=[1, 2, 3], min_tokens=100)
    models = [model, twin(model, "sdpa")]
    for each in models:
        each.gradient_checkpointing_enable(dict(use_reentrant=reentrant))
        each.enable_input_require_grads()
        each(tokens(200), labels=tokens(200), use_cache=False).loss.backward()
    for mine, theirs in zip(*(each.parameters() for each in models)):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert all(set(why) == {"training"} for why in reasons(model).values())


def test_frozen_layers_of_a_model_in_training_are_dense():
    """LoRA on the last layer: those before need no gradients."""
    model = make().train().requires_grad_(False)
    model.model.layers[3].requires_grad_(True)
    tokensieve.hf.configure(model, select=SPARSE, layers=[1, 2, 3], min_tokens=100)
    other = twin(model, "sdpa")
    for each in (model, other):
        each(tokens(200), labels=tokens(200)).loss.backward()
    mine, theirs = (each.model.layers[3].mlp.up_proj.weight.grad for each in (model, other))
    torch.testing.assert_close(mine, theirs)


def test_sparse_by_name_on_a_short_prompt_says_so_once(model, caplog):
    tokensieve.hf.layer.said.clear()
    tokensieve.hf.configure(model, select=SPARSE, layers=[2], min_tokens=300)
    logits(model, tokens(200))
    assert not caplog.text
    with tokensieve.sparse(keep_ratio=0.5):
        logits(model, tokens(200))
    logits(model, tokens(200), tokensieve=tokensieve.sparse(keep_ratio=0.5))
    with tokensieve.sparse(min_tokens=250):  # who says so knows
        logits(model, tokens(200))
    (record,) = caplog.records
    assert "shorter than min_tokens (300) runs dense, also inside tokensieve.spar" in record.message
    assert reasons(model)[2] == {SHORT: 4}


def test_values_that_differ_between_layers_match_any_profile():
    """Gemma 4: longer heads in full layers."""
    config = transformers.Gemma4TextConfig(
        vocab_size=256, hidden_size=64, intermediate_size=64, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, global_head_dim=32,
        hidden_size_per_layer_input=16, vocab_size_per_layer_input=256, pad_token_id=0)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="tokensieve").eval()
    assert tokensieve.hf.fingerprint(config) == tokensieve.Fingerprint("gemma4_text", 6, 4, 2, 0)
    profile = tokensieve.hf.profile(model, [tokens(64)[0]], select=SPARSE, min_tokens=100)
    tokensieve.hf.configure(model, profile, layers=[5])
    logits(model, tokens(200))
    assert tokensieve.hf.stats(model)[5].sparse == 1
