"""Reads a GGUF file of the llama architecture as a transformers model and tokenizer.

transformers has a reader of its own, which takes half a minute for SmolLM2 (it parses the file
three times in Python), needs the gguf package, overlooks the pre-tokenizer and makes a model that
save_pretrained refuses. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import contextlib
import math
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokensieve._abi import ArgumentError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}
_STRING, _ARRAY = 8, 9
_CONTROL_TOKEN = 3
_BLOCK = 32

# llama.cpp's names of a layer's parts.
_LAYER_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[None]:
    """Inside, whatever a damaged file leads to becomes an ArgumentError that names it."""
    try:
        yield
    except (ArgumentError, OSError, MemoryError):
        raise
    except Exception as problem:  # of NumPy, torch, transformers and tokenizers, too
        what = f"there is no {problem}" if isinstance(problem, KeyError) else str(problem)
        what = " ".join(what.split()) or type(problem).__name__
        raise ArgumentError(f"{path} is not a complete GGUF file of a model that tokensieve reads "
                            f"({what}); fetch it again") from problem


class Gguf:
    """A GGUF file: its metadata and the places of its tensors.

    Raises
    ------
    ArgumentError
        It is not a complete GGUF file.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        mapped: Any = np.memmap(path, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
        self._bytes, self._buffer = mapped, memoryview(mapped)
        self._at = 0
        self.metadata: dict[str, Any] = {}
        self._tensors: dict[str, tuple[int, tuple[int, ...], int]] = {}
        with reading(path):
            self._read_header()

    def _unpack(self, form: str) -> Any:
        values = struct.unpack_from("<" + form, self._buffer, self._at)
        self._at += struct.calcsize("<" + form)
        return values

    def _string(self) -> str:
        size = self._unpack("Q")[0]
        return self._unpack(f"{size}s")[0].decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            kind, count = self._unpack("IQ")
            if kind == _ARRAY:
                raise ValueError("an array of arrays")
            if kind in _SCALARS:
                return self._unpack(f"{count}{_SCALARS[kind]}")
            return [self._value(kind) for _ in range(count)]
        return self._unpack(_SCALARS[kind])[0]

    def _read_header(self) -> None:
        magic, version, tensors, entries = self._unpack("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"it begins with {magic!r}, version {version}")
        for _ in range(entries):
            key = self._string()
            self.metadata[key] = self._value(self._unpack("I")[0])
        for _ in range(tensors):
            name, rank = self._string(), self._unpack("I")[0]
            shape = self._unpack(f"{rank}Q")[::-1]
            kind, offset = self._unpack("IQ")
            self._tensors[name] = (kind, shape, offset)
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment is {alignment!r:.40}; allowed: powers of 2")
        self._data = -(-self._at // alignment) * alignment

    def names(self) -> list[str]:
        """Of the tensors, in the file's order."""
        return list(self._tensors)

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor in float32."""
        if name not in self._tensors:
            raise ArgumentError(f"{self.path} has no tensor {name}; fetch it again")
        kind, shape, offset = self._tensors[name]
        if kind not in _DECODERS:
            raise ArgumentError(f"{name} in {self.path} has ggml type {kind}; allowed: F32, F16, "
                                "Q4_1, Q8_0")
        block, decode = _DECODERS[kind]
        count, rest = divmod(math.prod(shape), 1 if block.fields is None else _BLOCK)
        if rest:
            raise ArgumentError(f"{name} in {self.path} has shape {list(shape)}, which are no "
                                f"whole blocks of {_BLOCK}; fetch it again")
        begin = self._data + offset
        raw = self._bytes[begin:begin + count * block.itemsize]
        if raw.size < count * block.itemsize:
            raise ArgumentError(f"{self.path} is not a complete GGUF file: {name} ends behind it; "
                                "fetch it again")
        return torch.from_numpy(decode(raw.view(block)).astype(np.float32).reshape(shape))


_Q8_0 = np.dtype([("scale", "<f2"), ("q", "i1", _BLOCK)])
_Q4_1 = np.dtype([("scale", "<f2"), ("low", "<f2"), ("q", "u1", _BLOCK // 2)])


def _q8_0(x: Any) -> Any:
    return x["scale"].astype(np.float32)[:, None] * x["q"]


def _q4_1(x: Any) -> Any:
    q = np.concatenate([x["q"] & 15, x["q"] >> 4], axis=1)
    return x["scale"].astype(np.float32)[:, None] * q + x["low"].astype(np.float32)[:, None]


# By ggml's number of the type: the block and what makes numbers of it.
_DECODERS: dict[int, tuple[Any, Any]] = {
    0: (np.dtype("<f4"), np.array), 1: (np.dtype("<f2"), np.array), 3: (_Q4_1, _q4_1),
    8: (_Q8_0, _q8_0)}


def config(file: Gguf) -> LlamaConfig:
    """The model's configuration."""
    meta = {key.removeprefix("llama."): value for key, value in file.metadata.items()}
    if meta["general.architecture"] != "llama":
        raise ArgumentError(f"{file.path} is a {meta['general.architecture']} model; allowed: "
                            "llama")
    return LlamaConfig(
        vocab_size=meta["vocab_size"], hidden_size=meta["embedding_length"],
        intermediate_size=meta["feed_forward_length"], num_hidden_layers=meta["block_count"],
        num_attention_heads=meta["attention.head_count"],
        num_key_value_heads=meta["attention.head_count_kv"], head_dim=meta["rope.dimension_count"],
        rms_norm_eps=meta["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": meta["rope.freq_base"]},
        max_position_embeddings=meta["context_length"],
        bos_token_id=meta["tokenizer.ggml.bos_token_id"],
        eos_token_id=meta["tokenizer.ggml.eos_token_id"],
        pad_token_id=meta["tokenizer.ggml.padding_token_id"],
        tie_word_embeddings="output.weight" not in file.names())


def model(file: Gguf, config: LlamaConfig) -> LlamaForCausalLM:
    """The model in float32, on the CPU."""
    weights = {"model.embed_tokens.weight": file.tensor("token_embd.weight"),
               "model.norm.weight": file.tensor("output_norm.weight")}
    weights["lm_head.weight"] = (weights["model.embed_tokens.weight"] if config.tie_word_embeddings
                                 else file.tensor("output.weight"))
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        for name, theirs in _LAYER_NAMES.items():
            weight = file.tensor(f"blk.{layer}.{theirs}.weight")
            if theirs in ("attn_q", "attn_k"):
                weight = _unpermuted(weight, head_dim)
            weights[f"model.layers.{layer}.{name}.weight"] = weight
    with torch.device("meta"):  # the file has as many layers as it says
        result = LlamaForCausalLM(config)
    result.load_state_dict(weights, assign=True)
    result.tie_weights()
    result.model.rotary_emb = type(result.model.rotary_emb)(config)  # its buffers are not weights
    return result


@torch.no_grad()
def merge_lora(model: nn.Module, adapter: Gguf) -> None:
    """Adds a LoRA adapter to the model's weights, which are float32."""
    config: Any = model.config
    head_dim: int = config.head_dim
    alpha = adapter.metadata["adapter.lora.alpha"]
    names = {theirs: name for name, theirs in _LAYER_NAMES.items()}
    for key in adapter.names():
        if not key.endswith(".lora_a"):
            continue
        _, layer, theirs, _, _ = key.split(".")  # blk.0.attn_q.weight.lora_a
        a, b = adapter.tensor(key), adapter.tensor(key[:-1] + "b")
        if theirs in ("attn_q", "attn_k"):
            b = _unpermuted(b, head_dim)
        weight = model.get_parameter(f"model.layers.{layer}.{names[theirs]}.weight")
        weight.add_(b @ a, alpha=alpha / a.shape[0] if alpha else 1.0)  # as llama.cpp scales it


def _unpermuted(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """llama.cpp stores each head's rows as pairs that are rotated together."""
    return weight.view(-1, head_dim // 2, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def tokenizer(file: Gguf) -> PreTrainedTokenizerFast:
    """The tokenizer, with the chat template."""
    meta = {key.removeprefix("tokenizer."): value for key, value in file.metadata.items()}
    if (meta["ggml.model"], meta["ggml.pre"]) != ("gpt2", "smollm"):
        raise ArgumentError(f"{file.path} has a tokenizer {meta['ggml.model']}, {meta['ggml.pre']};"
                            " allowed: gpt2, smollm")
    tokens = meta["ggml.tokens"]
    numbers = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in meta["ggml.merges"]]
    for merge in merges:  # tokenizers aborts the thread
        if len(merge) != 2 or not {*merge, "".join(merge)} <= numbers.keys():
            raise ValueError(f"the merge {merge} is not of two tokens to one")
    result = Tokenizer(models.BPE(numbers, merges))
    result.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens([
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(tokens, meta["ggml.token_type"]) if kind == _CONTROL_TOKEN])
    special = {f"{name}_token": tokens[meta[f"ggml.{key}_token_id"]] for name, key in
               [("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")]}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=result, chat_template=meta["chat_template"],
        clean_up_tokenization_spaces=False, **special)
