"""A layer's attention: by tokensieve where that may be and pays, else by SDPA."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tokensieve import _abi, _attend, _context
from tokensieve._abi import UnsupportedError
from tokensieve._attend import Extras
from tokensieve._call import Settings
from tokensieve._config import LayerChoice, Profile
from tokensieve._results import Report
from tokensieve.hf import layer, masks
from tokensieve.hf.masks import VisibleKeys

SDPA_KNOWS = ("position_bias", "cache")  # T5's bias, the paged cache
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Logits(NamedTuple):
    """What is done to q k^T."""

    scaling: float | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


class Kind(NamedTuple):
    """What else the model asks of the layer."""

    causal: bool = True
    sliding: int | None = None
    dropout: float = 0.0
    unknown: str = ""  # an argument that tokensieve does not have


class Call(NamedTuple):
    """One layer's attention; tensors are [batch, heads, seq, dim]."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None  # for SDPA
    logits: Logits
    kind: Kind
    # The model's argument `tokensieve` as text (_context.text_of), since torch.compile guards
    # strings by their value: equal overrides share a graph.
    override: str

    def trains(self) -> str:
        """Why the call is one of training, or "". Whoever trains wants the gradients of all calls,
        also where a first pass runs without (checkpoints) or a layer has no weights to learn."""
        if self.module.training:
            return "training"
        wanted = torch.is_grad_enabled() and any(
            t is not None and t.requires_grad
            for t in (self.query, self.key, self.value, self.logits.sinks))
        return "needs gradients" if wanted else ""


class _Part(NamedTuple):
    """What one call of the library computes."""

    sequences: slice
    keys: slice
    rows: slice  # of the queries
    choice: LayerChoice

    def pairs(self) -> int:
        """Causal (query, key) pairs of a sequence."""
        queries, keys = (x.stop - x.start for x in (self.rows, self.keys))
        return int(queries * keys - queries * (queries - 1) // 2)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def say_training(reason: str) -> None:
    """Of a compiled model: when it is traced."""
    what = ("a model in training mode runs" if reason == "training" else
            "tensors that need gradients run")
    layer.say_once(f"tokensieve: {what} dense through SDPA, since tokensieve computes forward only "
                   "(use model.eval() and torch.no_grad() for inference)")


def sparse(call: Call, keys: VisibleKeys | None) -> Tensor | None:
    """Attention by tokensieve, or None if that may not be; counts what was done, or why not."""
    override = _context.parse(call.override) or _context.current()
    parts: list[_Part] = []
    reason = next(_reasons(call, keys, override, parts), "")
    if not reason and keys is not None:
        try:
            out, report = _run(call, keys, parts)
            layer.count(call.module, "only padding", report)
            return out
        except UnsupportedError as problem:
            reason = f"unsupported: {problem}"
            layer.say_once(f"tokensieve: sparse layers run dense through SDPA, since {problem}")
    layer.count(call.module, reason)
    return None


def _reasons(call: Call, keys: VisibleKeys | None, override: _context.Override | None,
             parts: list[_Part]) -> Iterator[str]:
    """Why the call runs dense through SDPA, what counts first; `parts` gets what else is computed.
    The profile's reasons are the library's; the others only torch knows."""
    query, value, kind = call.query, call.value, call.kind
    if override is not None and not override.enabled:
        yield "switched off"
    if call.module.training:
        say_training("training")
        yield "training"
    if query.shape[2] == 1:
        yield "decode"
    profile = layer.profile_of(call.module, override)
    if profile is None or _choose(call, profile, 1, 1).code == _abi.LAYER_NOT_LISTED:
        yield _abi.reason_text(_abi.LAYER_NOT_LISTED)
    if kind.sliding is not None:
        yield "sliding layer"
    if not kind.causal:
        yield "not causal"
    if kind.unknown:
        yield kind.unknown
    if kind.dropout > 0.0:
        yield "dropout"
    if keys is None:
        yield "custom mask"
    elif profile is not None:
        parts += _parts(call, keys, profile)
        if parts and not any(part.choice.is_for_the_library for part in parts):
            longest = max(parts, key=lambda part: part.keys.stop - part.keys.start)
            if longest.choice.code == _abi.BELOW_MIN_TOKENS and override is not None:
                _say_short(profile, override)
            yield longest.choice.reason
    if query.dtype not in _DTYPES or value.dtype not in _DTYPES:
        yield "unsupported dtype"
    if value.shape[3] != query.shape[3]:
        yield "unsupported head_dim"
    if reason := call.trains():
        say_training(reason)
        yield reason


def _say_short(profile: Profile, override: _context.Override) -> None:
    if override.min_tokens is None:
        layer.say_once(
            f"tokensieve: a prompt shorter than min_tokens ({profile.min_tokens}) runs dense, also "
            "inside tokensieve.sparse(...); tokensieve.sparse(min_tokens=...) changes it")


def _choose(call: Call, profile: Profile, queries: int, keys: int) -> LayerChoice:
    index: Any = call.module.layer_idx
    return profile.choose(index, queries, keys)


def _parts(call: Call, keys: VisibleKeys, profile: Profile) -> list[_Part]:
    """All sequences at once, or one by one if there is padding; those without a query not."""
    first = keys.count - call.query.shape[2]  # position of the first query
    parts = []
    for i, (begin, end) in enumerate(keys.spans or ((0, keys.count),)):
        rows = slice(max(first, begin) - first, end - first)
        if rows.stop > rows.start:
            choice = _choose(call, profile, rows.stop - rows.start, end - begin)
            parts.append(_Part(slice(i, i + 1) if keys.spans else slice(None),
                               slice(begin, end), rows, choice))
    return parts


def _run(call: Call, keys: VisibleKeys, parts: list[_Part]) -> tuple[Tensor, Report | None]:
    """tokensieve's attention; the result is [batch, seq, heads, dim], 0 in padding."""
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous()
                         for x in (call.query, call.key, call.value))
    batch, heads, queries, dim = query.shape
    out = torch.empty((batch, queries, heads, dim), dtype=query.dtype, device=query.device)
    if keys.spans:
        out.zero_()
    group = layer.group_of(call.module, heads)
    scaling, softcap, sinks = call.logits
    reports: list[Any] = []
    with torch.no_grad():
        for part in parts:
            settings = Settings.of(part.choice.select, scaling, softcap or 0.0, layout="bhsd",
                                   blocks=part.choice.blocks,
                                   products=part.choice.products)
            reports.append(_attend.attend(
                query[part.sequences, :, part.rows], key[part.sequences, :, part.keys],
                value[part.sequences, :, part.keys], settings, Extras(sinks), group=group,
                out=out[part.sequences, part.rows].transpose(1, 2),
                report=_attend.AT_ONCE)[1])
    if not reports:
        return out, None
    tokens = sum(end - begin for begin, end in keys.spans)
    return out, _sum(reports, parts, tokens) if keys.spans else reports[0]


def _sum(reports: list[Report], parts: list[_Part], tokens: int) -> Report:
    """One report of several sequences."""
    sparse = [r for r in reports if r.path == "sparse"]
    ratio = sum(r.keep_count for r in reports) / tokens
    if any(r.keep_count < 0 for r in reports):  # the device knows
        ratio = float("nan")
    pairs = [part.pairs() for part in parts]
    work, density = (sum(getattr(r, name) * p for r, p in zip(reports, pairs)) / sum(pairs)
                     for name in ("work", "block_density"))
    return dataclasses.replace(
        (sparse or reports)[0], keep_ratio=ratio, work=work, block_density=density,
        stage_ns={name: sum(r.stage_ns[name] for r in reports) for name in reports[0].stage_ns})


def dense(call: Call, keys: VisibleKeys | None = None, **kwargs: Any) -> Tensor:
    """SDPA, or plain PyTorch where SDPA leaves out what the model asks for."""
    call, kind = _as_sdpa_asks(call, keys), call.kind
    if call.logits.softcap is None and call.logits.sinks is None:
        # Transformers 4 takes is_causal as it is, and SDPA aligns it top left.
        is_causal = kind.causal and call.mask is None and call.query.shape[2] > 1
        return sdpa_attention_forward(call.module, call.query, call.key, call.value, call.mask,
                                      dropout=kind.dropout, scaling=call.logits.scaling,
                                      is_causal=is_causal, **kwargs)[0]
    if kind.unknown in SDPA_KNOWS:
        raise UnsupportedError(f"{kind.unknown} together with softcap or sinks; use "
                               "attn_implementation='eager'")
    return _plain(call)


def _as_sdpa_asks(call: Call, keys: VisibleKeys | None) -> Call:
    """No mask only where causality aligned top left is right; there none if possible."""
    queries = call.query.shape[2]
    if keys == (queries, ()):
        return call._replace(mask=None, key=call.key[:, :, :queries],
                             value=call.value[:, :, :queries])
    if call.mask is None and call.kind.causal and 1 < queries < call.key.shape[2]:
        return call._replace(mask=masks.bottom_right(call.query, call.key))
    return call


def _plain(call: Call) -> Tensor:
    """Attention with what SDPA does not know: softcap and sinks."""
    query, mask, (scaling, softcap, sinks) = call.query, call.mask, call.logits
    batch, heads, queries, dim = query.shape
    keys = call.key.shape[2]
    key = call.key.repeat_interleave(heads // call.key.shape[1], dim=1)
    value = call.value.repeat_interleave(heads // call.value.shape[1], dim=1)
    logits = query @ key.transpose(2, 3) * (dim**-0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if mask is None and call.kind.causal and queries > 1:
        mask = masks.bottom_right(query, call.key)
    if mask is not None:
        if mask.dtype == torch.bool:
            logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
        else:
            logits = logits + mask
    if sinks is not None:
        extra = sinks.reshape(1, heads, 1, 1).expand(batch, heads, queries, 1)
        logits = torch.cat([logits, extra.to(logits.dtype)], dim=-1)
    weights = torch.softmax(logits, dim=-1, dtype=torch.float32)[..., :keys].to(query.dtype)
    dropout = call.kind.dropout
    weights = nn.functional.dropout(weights, p=dropout, training=dropout > 0.0)
    return (weights @ value).transpose(1, 2).contiguous()
