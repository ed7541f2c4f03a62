"""GGUF files that are damaged or of something else: an ArgumentError that names the file."""

import random
import struct

import pytest

import tokensieve
import tokensieve.hf
from tokensieve import _models

U32, F32, STRING, ARRAY = 4, 6, 8, 9
HIDDEN, LAYERS, VOCABULARY = 32, 1, 8
LAYER = {"attn_norm": [HIDDEN], "ffn_norm": [HIDDEN]} | {
    name: [HIDDEN, HIDDEN] for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate",
                                        "ffn_up", "ffn_down")}


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def value(given):
    if isinstance(given, bytes):  # as it is
        return given
    if isinstance(given, str):
        return struct.pack("<I", STRING) + text(given)
    if isinstance(given, list):
        first = value(given[0])[:4]
        return struct.pack("<I", ARRAY) + first + struct.pack("<Q", len(given)) + b"".join(
            value(item)[4:] for item in given)
    return struct.pack("<If" if isinstance(given, float) else "<II",
                       F32 if isinstance(given, float) else U32, given)


def keys():
    return {
        "general.architecture": "llama", "general.alignment": 32, "llama.vocab_size": VOCABULARY,
        "llama.embedding_length": HIDDEN, "llama.feed_forward_length": HIDDEN,
        "llama.block_count": LAYERS, "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 2, "llama.rope.dimension_count": HIDDEN // 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 1e4,
        "llama.context_length": 64, "tokenizer.ggml.bos_token_id": 5,
        "tokenizer.ggml.eos_token_id": 4, "tokenizer.ggml.padding_token_id": 6,
        "tokenizer.ggml.unknown_token_id": 6, "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": [*"abcdefg", "ab"],
        "tokenizer.ggml.token_type": [1] * 6 + [3, 1], "tokenizer.ggml.merges": ["a b"],
        "tokenizer.chat_template": "{{ messages }}"}


def tensors():
    shapes = {"token_embd.weight": [VOCABULARY, HIDDEN], "output_norm.weight": [HIDDEN]}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in LAYER.items()}
    return {name: (0, shape) for name, shape in shapes.items()}  # type F32


def written(path, metadata=None, shapes=None):
    """A file; `metadata` and `shapes` replace parts of a good one, None takes a part away."""
    entries = {k: v for k, v in (keys() | (metadata or {})).items() if v is not None}
    parts = {k: v for k, v in (tensors() | (shapes or {})).items() if v is not None}
    out = b"GGUF" + struct.pack("<IQQ", 3, len(parts), len(entries))
    for name, given in entries.items():
        out += text(name) + value(given)
    for name, (kind, shape) in parts.items():
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, 0)
    path.write_bytes(out + bytes(-len(out) % 32) + bytes(4 * HIDDEN * HIDDEN))
    return path


def read(path):
    return _models.read("smollm2", path, None, "cpu", "tokensieve")


def test_the_good_file(tmp_path):
    model, tokenizer = read(written(tmp_path / "a.gguf"))
    assert model.config.hidden_size == HIDDEN and tokenizer("abc")["input_ids"] == [7, 2]


NESTED = struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 5000


@pytest.mark.parametrize("metadata, shapes, message", [
    ({"general.alignment": 0}, {}, "general.alignment is 0; allowed: powers of 2"),
    ({"general.alignment": 24}, {}, "general.alignment is 24; allowed: powers of 2"),
    ({"general.alignment": "32"}, {}, "general.alignment is '32'; allowed: powers of 2"),
    ({"tokenizer.ggml.merges": NESTED}, {}, "an array of arrays"),
    ({"llama.block_count": None}, {}, "there is no 'block_count'"),
    ({"llama.block_count": 2**32 - 1}, {}, "has no tensor blk.1.attn_norm.weight"),
    ({"llama.attention.head_count": 0}, {}, ""),
    ({"llama.vocab_size": "many"}, {}, "vocab_size"),
    ({"tokenizer.ggml.merges": [7]}, {}, ""),
    ({"tokenizer.ggml.merges": ["a c"]}, {}, "the merge .*'c'. is not of two tokens to one"),
    ({"tokenizer.ggml.unknown_token_id": 99}, {}, "index out of range"),
    ({"tokenizer.ggml.tokens": None}, {}, "there is no 'ggml.tokens'"),
    ({}, {"output_norm.weight": None}, "has no tensor output_norm.weight"),
    ({}, {"output_norm.weight": (8, [33])}, "shape .33., which are no whole blocks of 32"),
    ({}, {"output_norm.weight": (0, [2**40, 2**40])}, "output_norm.weight ends behind it"),
    ({}, {"output_norm.weight": (0, [])}, "size mismatch"),
    ({}, {"output_norm.weight": (99, [HIDDEN])}, "ggml type 99; allowed: F32"),
])
def test_damaged_files(tmp_path, metadata, shapes, message):
    path = written(tmp_path / "bad.gguf", metadata, shapes)
    with pytest.raises(tokensieve.ArgumentError, match=f"bad.gguf.*{message}"):
        read(path)


def test_whatever_bytes_are_changed(tmp_path):
    path, dice = tmp_path / "some.gguf", random.Random(1)
    good = written(path).read_bytes()
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(dice.choice((1, 1, 2, 8))):
            bad[dice.randrange(len(bad) - 4 * HIDDEN * HIDDEN)] = dice.randrange(256)
        path.write_bytes(bad[:dice.choice((len(bad), dice.randrange(len(bad))))])
        try:
            read(path)
        except tokensieve.ArgumentError as problem:
            assert "some.gguf" in str(problem)
