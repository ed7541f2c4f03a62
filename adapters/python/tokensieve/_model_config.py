"""What a model's configuration (of transformers, whose ones vLLM reads too) says of it."""

from __future__ import annotations

from typing import Any

from tokensieve._config import Fingerprint

# Profiles name architectures as GGUF files do.
_GGUF_NAMES = {"mistral": "llama", "gemma3_text": "gemma3", "gpt_oss": "gpt-oss"}


def fingerprint(config: Any) -> Fingerprint:
    """The fingerprint of a model.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        ``model.config``.

    Returns
    -------
    Fingerprint
        What a profile for the model has (:meth:`Profile.check`).
    """
    config = config.get_text_config()
    heads = of_all_layers(config, "num_attention_heads")
    kv_heads, head_dim = (of_all_layers(config, name) for name in ("num_key_value_heads",
                                                                  "head_dim"))
    return Fingerprint(_GGUF_NAMES.get(config.model_type, config.model_type),
                       config.num_hidden_layers, heads, heads if kv_heads is None else kv_heads,
                       config.hidden_size // heads if head_dim is None and heads else head_dim or 0)


def of_all_layers(config: Any, name: str) -> Any:
    """A value of a configuration: None if there is none, 0 if it differs between layers."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # of transformers, which does not choose one
        return 0
