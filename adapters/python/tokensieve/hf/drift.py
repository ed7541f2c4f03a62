"""Profiles of transformers models: layers by measured drift (docs/profile.md)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tokensieve import _context
from tokensieve._abi import ArgumentError
from tokensieve._config import Fingerprint, Profile
from tokensieve._model_config import fingerprint
from tokensieve._select import SelectConfig

def _decoder_layers(model: nn.Module) -> nn.ModuleList:
    config: Any = model.config
    count = config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and all(
                any(isinstance(getattr(part, "layer_idx", None), int) for part in layer.modules())
                for layer in module):
            return module
    raise ArgumentError(f"no list of {count} decoder layers in this {type(model).__name__}; pass "
                        "a decoder-only model")


@torch.no_grad()
def profile(model: nn.Module, inputs: Iterable[Any], *, tokenizer: Any = None,
            delta: float = 0.5, select: SelectConfig | None = None, min_tokens: int = 4096,
            name: str = "") -> Profile:
    """Measures the drift of each layer with selection off; low drift makes a layer sparse.

    Drift is a start, not a proof: check answers with the profile before using it
    (docs/profile.md).

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Decoder-only.
    inputs : iterable of str or of int tensors [tokens] or [batch, tokens]
        Real text of the kind that the model will read; str needs `tokenizer`.
    tokenizer : optional
        Called with a text and return_tensors="pt".
    delta : float
        [0, 1]: layers whose drift is at most this quantile are sparse; layer 0 never is.
    select : SelectConfig, optional
        Of the sparse layers; None: as in `Profile.default`.
    min_tokens : int
        Shorter prompts run dense.
    name : str
        The profile's name of the model, for people.

    Returns
    -------
    Profile
        ``profile.save(path)`` writes it.

    Raises
    ------
    ArgumentError
        No inputs, a text without a tokenizer, no decoder layers, or drift that is not finite.
    """
    if not 0.0 <= delta <= 1.0:
        raise ArgumentError(f"delta is {delta}; allowed: 0 to 1")
    drift = _drift(model, inputs, tokenizer)
    quantile = float(torch.quantile(torch.tensor(drift, dtype=torch.float64), delta))
    return Profile(tuple(i for i, d in enumerate(drift) if i > 0 and d <= quantile),
                   select or Profile.default(Fingerprint()).select, min_tokens,
                   fingerprint(model.config), name, drift)


def _drift(model: nn.Module, inputs: Iterable[Any], tokenizer: Any) -> tuple[float, ...]:
    """Each layer's share of how much the layers change the hidden states."""
    layers = _decoder_layers(model)
    sums = [0.0] * len(layers)

    def watch(index: int) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            before = (args[0] if args else kwargs["hidden_states"]).float()
            after = (output[0] if isinstance(output, tuple) else output).float()
            drift = (after - before).norm(dim=-1) / (before.norm(dim=-1) + 1e-8)
            sums[index] += float(drift.double().sum())
        return hook

    hooks = [layer.register_forward_hook(watch(i), with_kwargs=True)
             for i, layer in enumerate(layers)]
    training, tokens = model.training, 0
    device = next(model.parameters()).device
    model.eval()
    try:
        with _context.dense():
            for text in inputs:
                ids = _ids(text, tokenizer).to(device)
                tokens += ids.numel()
                model(ids, use_cache=False)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if tokens == 0:
        raise ArgumentError("inputs is empty; pass at least one text")
    total = sum(sums)
    if not (math.isfinite(total) and total > 0.0):
        raise ArgumentError(f"the drift of all layers together is {total}; the model's hidden "
                            "states are not usable")
    return tuple(value / total for value in sums)


def _ids(text: Any, tokenizer: Any) -> torch.Tensor:
    if isinstance(text, str):
        if tokenizer is None:
            raise ArgumentError("inputs holds text; pass its tokenizer too, or token ids")
        return tokenizer(text, return_tensors="pt")["input_ids"]
    ids = torch.as_tensor(text)
    return ids[None] if ids.ndim == 1 else ids
