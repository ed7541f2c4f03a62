"""Engines of vLLM with a tiny llama of random weights, in this process; `setup/test.sh vllm`."""

import atexit
import functools
import json
import os

import pytest

# Before vLLM is imported: one process, so that tests see its layers; a small cache; no downloads.
os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1",
                  VLLM_CPU_CI_ENV="1", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of a llama with 4 layers, 4/2 heads and 512 tokens."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=32768,
        bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)).float()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "proj" in name:  # else every token looks alike, and attention does not matter
                weight.mul_(4)
    made.save_pretrained(folder)
    # vLLM asks for a tokenizer even where prompts are token ids.
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None,
        "decoder": None, "model": {"type": "WordLevel", "unk_token": "<0>",
                                   "vocab": {f"<{i}>": i for i in range(512)}}}))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<0>"}))
    return str(folder)


@pytest.fixture(scope="session")
def start(model):
    """Makes engines whose cache is too small for more than a few long prompts at once."""
    from vllm import LLM

    return functools.partial(
        LLM, model, dtype="float32", max_model_len=4096, max_num_seqs=8, num_gpu_blocks_override=64,
        max_num_batched_tokens=1024, enforce_eager=True, seed=0)


@pytest.fixture(scope="session")
def stock(start):
    return start()


@pytest.fixture(scope="session")
def engine(start):
    return start(additional_config={"tokensieve": {}})


def pytest_sessionfinish():
    from tokensieve.vllm import counters

    atexit.unregister(counters.say)  # pytest has closed what the log writes to
