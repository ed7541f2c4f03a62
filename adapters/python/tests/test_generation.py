"""transformers' ways to generate text: pipelines, streamers in threads, beams, sampling."""

import threading

import pytest
import torch
from test_hf import SPARSE, make, reasons, tokens, twin
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TextIteratorStreamer, pipeline

import tokensieve
import tokensieve.hf

NEW = 4  # generated tokens


@pytest.fixture
def model():
    model = make(num_hidden_layers=3)
    tokensieve.hf.configure(model, select=SPARSE, layers=[2], min_tokens=256)
    return model


@pytest.fixture
def tokenizer():
    vocabulary = {"<pad>": 0, "<unk>": 1, **{f"w{i}": i for i in range(2, 256)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>",
                                   padding_side="left")


def text(length, seed):
    return " ".join(f"w{i}" for i in tokens(length, seed=seed)[0].tolist())


def one_sparse_prefill(model):
    """Then reads back one token at a time, and no other reason to be dense in the sparse layer."""
    stats = tokensieve.hf.stats(model)
    assert [s.sparse for s in stats.values()] == [0, 0, 1]
    assert dict(stats[2].reasons) == {"decode": NEW - 1}
    tokensieve.hf.reset_stats(model)


def test_pipeline(model, tokenizer):
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
    prompts = [text(300, 1), text(280, 2)]
    more = dict(max_new_tokens=NEW, do_sample=False, return_full_text=False)
    together = generator(prompts, batch_size=2, **more)  # the second one with padding
    one_sparse_prefill(model)
    alone = []
    for prompt in prompts:
        alone.append(generator(prompt, **more))
        one_sparse_prefill(model)
    assert together == alone and len(together[0][0]["generated_text"].split()) == NEW
    dense = generator(prompts[0], tokensieve=False, **more)
    assert reasons(model)[2] == {"switched off": NEW}
    other = pipeline("text-generation", model=twin(model, "sdpa"), tokenizer=tokenizer)
    assert dense == other(prompts[0], **more)


def test_streamer_in_a_thread(model, tokenizer):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=600)
    inputs = tokenizer(text(300, 1), return_tensors="pt")
    more = dict(max_new_tokens=NEW, do_sample=False)
    thread = threading.Thread(target=model.generate,
                              kwargs=dict(**inputs, streamer=streamer, **more))
    thread.start()
    streamed = "".join(streamer)
    thread.join()
    one_sparse_prefill(model)
    assert streamed == tokenizer.decode(model.generate(**inputs, **more)[0, 300:])
    # What holds for one call goes into the thread as an argument.
    thread = threading.Thread(target=model.generate, kwargs=dict(
        **inputs, tokensieve=tokensieve.sparse(layers=[1]), **more))
    tokensieve.hf.reset_stats(model)
    thread.start()
    thread.join()
    assert [s.sparse for s in tokensieve.hf.stats(model).values()] == [0, 1, 0]


@pytest.mark.parametrize("how", [
    dict(num_beams=3, do_sample=False), dict(do_sample=True, num_return_sequences=2),
    dict(do_sample=True, top_k=5, temperature=0.7), dict(num_beams=2, do_sample=True),
    dict(do_sample=False, cache_implementation="dynamic")])
def test_decoding_strategies(model, how):
    outs = []
    for _ in range(2):
        torch.manual_seed(0)
        outs.append(model.generate(tokens(300), max_new_tokens=NEW, **how))
        one_sparse_prefill(model)
    assert torch.equal(*outs)
    assert outs[0].shape == (how.get("num_return_sequences", 1), 300 + NEW)


def test_beams_equal_sdpa_when_dense(model):
    more = dict(num_beams=3, do_sample=False, max_new_tokens=NEW)
    with tokensieve.dense():
        mine = model.generate(tokens(300), **more)
    assert torch.equal(mine, twin(model, "sdpa").generate(tokens(300), **more))


def test_chunked_prefill(model):
    """generate() with prefill_chunk_size: later chunks drop keys only."""
    out = model.generate(tokens(600), max_new_tokens=NEW, do_sample=False, prefill_chunk_size=300)
    assert out.shape == (1, 600 + NEW)
    layer = tokensieve.hf.stats(model)[2]
    assert layer.sparse == 2 and dict(layer.reasons) == {"decode": NEW - 1}
