"""tokensieve.hf.load on the model that the set-up fetched."""

import pytest
import torch
import transformers

import tokensieve
import tokensieve.hf
from tokensieve import _files

BASE = _files.cache() / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
with_model = pytest.mark.skipif(not BASE.is_file(), reason="run setup/fetch.py smollm2")
QUESTION = "What is the special magic number for Cairo mentioned in the document?"


@pytest.fixture(scope="module")
def loaded():
    return tokensieve.hf.load("smollm2-128k")


def prompt(tokenizer, lines):
    filler = [f"Chapter {i}. The harbour was quiet and a {thing} stood near the wall while the "
              "clerks wrote their letters.\n" for i, thing in enumerate(["lamp", "crate"] * lines)]
    filler.insert(len(filler) // 3,
                  "The special magic number for Cairo mentioned in the document is 37519.\n")
    message = [{"role": "user", "content": "".join(filler) + QUESTION}]
    return tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt",
                                         return_dict=True)["input_ids"]


@with_model
def test_answers_dense_and_sparse(loaded):
    model, tokenizer = loaded
    ids = prompt(tokenizer, 20)
    assert 900 < ids.shape[1] < 1500

    def answer():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=19,
                             do_sample=False)
        return tokenizer.decode(out[0, ids.shape[1]:])

    expected = "The special magic number for Cairo mentioned in the document is 37519.<|im_end|>"
    with tokensieve.dense():
        assert answer() == expected
    tokensieve.hf.reset_stats(model)
    with tokensieve.sparse(min_tokens=512, min_keep=128, dense_policy="never"):
        assert "37519" in answer()
    stats = tokensieve.hf.stats(model)
    assert [s.sparse for s in stats.values()] == [0] + [1] * 29  # the shipped profile's layers
    assert stats[9].keep_ratio < 0.6


@with_model
def test_tokens_are_those_of_llama_cpp(loaded):
    _, tokenizer = loaded
    # From llama-perplexity, which saves them, on the same model.
    text = "日本語 naïve café — “quoted” 3.14159 don't\n\n\tTabs   and    spaces\n"
    tokens = [23274, 115, 40993, 179, 120, 248, 15486, 46494, 37366, 1841, 619, 385, 5036, 573,
              216, 35, 30, 33, 36, 33, 37, 41, 1326, 982, 1116, 197, 68, 7366, 256, 284, 333, 5600,
              198]
    assert tokenizer(text)["input_ids"] == tokens
    assert tokenizer.decode(tokens) == text
    assert tokenizer("\n              100 <|im_end|>")["input_ids"] == [13596, 33, 32, 32, 216, 2]


@with_model
def test_it_is_an_ordinary_transformers_model(loaded, tmp_path):
    model, tokenizer = loaded
    assert model.config.rope_parameters["rope_type"] == "yarn"
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 131072
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = prompt(transformers.AutoTokenizer.from_pretrained(tmp_path), 2)
    with torch.no_grad(), tokensieve.dense():
        torch.testing.assert_close(again(ids).logits, model(ids).logits, atol=1e-3, rtol=1e-3)


@with_model
def test_the_base_model_in_bfloat16():
    model, tokenizer = tokensieve.hf.load("smollm2", dtype=torch.bfloat16,
                                          attn_implementation="sdpa")
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "sdpa"
    assert model.config.rope_parameters["rope_type"] == "default"
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"


def test_errors(tmp_path, monkeypatch):
    with pytest.raises(tokensieve.ArgumentError, match="no model 'llama'; allowed: smollm2, "):
        tokensieve.hf.load("llama")
    monkeypatch.setenv("TOKENSIEVE_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Get it by `setup/fetch.py smollm2`"):
        tokensieve.hf.load()
    with pytest.raises(FileNotFoundError, match="give the path of SmolLM2-135M-Instruct.Q4_1"):
        tokensieve.hf.load(file=tmp_path / "nothing.gguf")
    bad = tmp_path / "bad.gguf"
    for content in (b"", b"GGUF", b"GGML" + bytes(40), b"GGUF\3\0\0\0" + b"\1" * 40):
        bad.write_bytes(content)
        with pytest.raises(tokensieve.ArgumentError, match="not a complete GGUF file"):
            tokensieve.hf.load(file=bad)


@with_model
def test_a_cut_file(tmp_path):
    cut = tmp_path / "cut.gguf"
    with BASE.open("rb") as file:
        cut.write_bytes(file.read(BASE.stat().st_size // 2))
    with pytest.raises(tokensieve.ArgumentError, match="not a complete GGUF file"):
        tokensieve.hf.load(file=cut)
