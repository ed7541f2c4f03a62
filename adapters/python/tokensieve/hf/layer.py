"""Attention layers of models, and what is known of each: profile, ranks, statistics, and the number
by which a compiled graph names it."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import logging
import os
import threading
import weakref
from typing import Any

import torch
from torch import nn

from tokensieve import _context, _ranks
from tokensieve._abi import UnsupportedError
from tokensieve._config import Fingerprint, Profile
from tokensieve._results import Report
from tokensieve.hf.drift import fingerprint

# Older torch cannot call Python code with a module while it traces (2.11 fails, 2.13 does not).
NAMES_WHILE_TRACING = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)

said: set[str] = set()
_log = logging.getLogger("tokensieve")


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

    def _add(self, reason: str, report: Report | None) -> None:
        self.calls += 1
        if report is not None:
            self.seconds += sum(report.stage_ns.values()) * 1e-9
            if report.path == "sparse":
                self.sparse += 1
                if report.keep_ratio == report.keep_ratio:  # NaN: the device knows
                    before = (self.keep_ratio or 0.0) * (self.sparse - 1)
                    self.keep_ratio = (before + report.keep_ratio) / self.sparse
                return
            reason = report.reason
        self.reasons[reason] += 1


@dataclasses.dataclass
class _Layer:
    key: int
    profile: Profile | None = None  # None: not configured, and not called yet
    group: Any = None
    stats: LayerStats | None = None  # None: not called yet


_layers: weakref.WeakKeyDictionary[nn.Module, _Layer] = weakref.WeakKeyDictionary()
_modules: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
_next_key = itertools.count()
_lock = threading.Lock()  # of the dictionaries and of statistics


def _of(module: nn.Module) -> _Layer:
    with _lock:
        layer = _layers.get(module)
        if layer is None:
            layer = _layers[module] = _Layer(next(_next_key))
            _modules[layer.key] = module
            if not NAMES_WHILE_TRACING:
                setattr(module, "tokensieve_key", layer.key)
        return layer


def key_of(module: nn.Module) -> int:
    """The number of a layer, for `with_key`."""
    return _of(module).key


def with_key(key: int) -> nn.Module:
    return _modules[key]


def say_once(text: str) -> None:
    if text not in said:
        said.add(text)
        _log.warning(text)


def set_profile(module: nn.Module, profile: Profile, group: Any) -> None:
    layer = _of(module)
    layer.profile, layer.group = profile, group


def profile_of(module: nn.Module, override: _context.Override | None) -> Profile | None:
    """What the layer was configured with, else the profile of TOKENSIEVE_PROFILE, else the
    library's default; None for a module that is no layer of a model."""
    if not (isinstance(getattr(module, "layer_idx", None), int) and hasattr(module, "config")):
        return None
    layer = _of(module)
    if layer.profile is None:
        config: Any = module.config
        path = os.environ.get("TOKENSIEVE_PROFILE")
        layer.profile = for_model(path or None, config)
        if not path:
            _say_default(layer.profile, config.get_text_config().model_type)
    return _overridden(layer.profile, override) if override else layer.profile


def for_model(profile: Profile | str | os.PathLike[str] | None, config: Any) -> Profile:
    """A profile, checked against the model's config; None: the default one."""
    if profile is None:
        count = getattr(config.get_text_config(), "num_hidden_layers", 0)
        return Profile.default(Fingerprint(num_layers=count))
    if not isinstance(profile, Profile):
        profile = Profile.load(profile)
    profile.check(fingerprint(config))
    return profile


def _say_default(profile: Profile, model: str) -> None:
    layers, select = profile.sparse_layers, profile.select
    say_once(f"tokensieve: no profile for this {model} model: layers {min(layers, default=0)} to "
             f"{max(layers, default=0)} run sparse with {select.budget} "
             f"{getattr(select, select.budget)}, one set per {select.share} and {select.fill} fill "
             "(tokensieve.hf.configure changes it)")


@functools.lru_cache(maxsize=64)
def _overridden(profile: Profile, override: _context.Override) -> Profile:
    count = profile.fingerprint.num_layers
    layers = (profile.sparse_layers if override.layers is None else
              tuple(n for n in override.layers if not count or n < count))
    return dataclasses.replace(
        profile.map_select(functools.partial(dataclasses.replace, **dict(override.select))),
        sparse_layers=layers,
        min_tokens=profile.min_tokens if override.min_tokens is None else override.min_tokens)


def group_of(module: nn.Module, heads: int) -> Any:
    """The ranks that share the layer's heads, of which `heads` are here; None: all are."""
    layer = _of(module)
    total = getattr(getattr(module, "config", None), "num_attention_heads", None)
    if layer.group is None:
        split = isinstance(total, int) and heads < total and torch.distributed.is_initialized()
        if not split:
            return None
        layer.group = _ranks.group_of(module)
    group = layer.group
    if group is None or heads * group.size() != total:
        ranks = "an unknown group" if group is None else f"{group.size()} ranks"
        raise UnsupportedError(f"the layer has {heads} of {total} heads here, split over {ranks}; "
                               "pass the group to tokensieve.hf.configure(model, group=...)")
    return group


def stats_of(module: nn.Module) -> LayerStats | None:
    layer = _layers.get(module)
    return layer.stats if layer else None


def forget_stats(module: nn.Module) -> None:
    layer = _layers.get(module)
    if layer:
        layer.stats = None


def count(module: nn.Module, reason: str, report: Report | None = None) -> None:
    """Counts a call that ran as `report` says, or dense for `reason`."""
    layer = _of(module)
    with _lock:
        layer.stats = layer.stats or LayerStats()
        layer.stats._add(reason, report)
