"""Attention layers of models, and what is known of each: profile, ranks, statistics, and the number
by which a compiled graph names it."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import logging
import os
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tokensieve import _context, _ranks
from tokensieve._abi import UnsupportedError
from tokensieve._config import Fingerprint, Profile
from tokensieve._model_config import fingerprint, of_all_layers
from tokensieve._results import Report

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
    masked : int
        Calls whose block masks left tiles out; 0 on CUDA.
    block_density : float or None
        Visited / visible tiles, mean over those calls; None if there were none.
    products : Counter of str
        Those of the calls that the library computed: "split", "exact (why not split)".
    """

    calls: int = 0
    sparse: int = 0
    keep_ratio: float | None = None
    seconds: float = 0.0
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    masked: int = 0
    block_density: float | None = None
    products: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def _add(self, reason: str, report: Report | None) -> None:
        self.calls += 1
        if report is not None:
            self.seconds += sum(report.stage_ns.values()) * 1e-9
            if report.block_density < 1:  # NaN: the device knows
                self.masked += 1
                self.block_density = _with(self.block_density, report.block_density, self.masked)
            why = f" ({report.products_reason})" if report.products_reason else ""
            self.products[report.products + why] += 1
            if report.path == "sparse":
                self.sparse += 1
                if report.keep_ratio == report.keep_ratio:
                    self.keep_ratio = _with(self.keep_ratio, report.keep_ratio, self.sparse)
                return
            reason = report.reason
        self.reasons[reason] += 1


def _with(mean: float | None, value: float, count: int) -> float:
    """The mean of `count` values, of which `value` is new."""
    return ((mean or 0.0) * (count - 1) + value) / count


class _Layer:
    """What is known of a layer. It lies in the module and goes where that goes: replicas (as those
    of DataParallel) share it; copies and pickles have the profile, and have counted nothing."""

    def __init__(self, profile: Profile | None = None, group: Any = None) -> None:
        self.profile = profile  # None: not configured, and not called yet
        self.group = group
        self.stats: LayerStats | None = None  # None: not called yet
        self.key = next(_next_key)

    def __deepcopy__(self, memo: Any) -> _Layer:
        return _Layer(self.profile, self.group)

    def __reduce__(self) -> Any:
        return _Layer, (self.profile,)  # groups are of a process


_NAME = "tokensieve_layer"
_modules: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
_next_key = itertools.count()
_lock = threading.Lock()  # of layers that are made, and of statistics


def _known(module: nn.Module) -> _Layer | None:
    return module.__dict__.get(_NAME)


def _of(module: nn.Module) -> _Layer:
    with _lock:
        layer = _known(module)
        if layer is None:
            layer = _Layer()
            setattr(module, _NAME, layer)
        _modules.setdefault(layer.key, module)
        return layer


def key_of(module: nn.Module) -> int:
    """The number of a layer, for `with_key`."""
    return _of(module).key


def with_key(key: int) -> nn.Module:
    return _modules[key]


def in_text_model(model: nn.Module) -> dict[nn.Module, bool]:
    """Attention layers, and whether they are of the text model: vision and audio parts number
    theirs from 0, too."""
    config: Any = getattr(model, "config", None)
    text = (type(config.get_text_config(decoder=True)) if hasattr(config, "get_text_config")
            else object)  # a part of a model
    return {module: isinstance(getattr(module, "config", None), (text, type(None)))
            for module in model.modules() if isinstance(getattr(module, "layer_idx", None), int)}


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
    return _context.apply(override, layer.profile) if override else layer.profile


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


def group_of(module: nn.Module, heads: int) -> Any:
    """The ranks that share the layer's heads, of which `heads` are here; None: all are."""
    layer = _of(module)
    total = of_all_layers(getattr(module, "config", None), "num_attention_heads")
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


def stats_of(modules: Iterable[nn.Module]) -> LayerStats | None:
    """Of layers of one index (self and cross attention) together; None: not called yet."""
    found = [layer.stats for layer in map(_known, modules) if layer and layer.stats]
    return found[0] if len(found) == 1 else _sum(found) if found else None


def _sum(parts: list[LayerStats]) -> LayerStats:
    def mean(shares: list[tuple[float | None, int]]) -> float | None:
        known = [(share, count) for share, count in shares if share is not None]
        return (sum(share * count for share, count in known) / sum(count for _, count in shares)
                if known else None)

    return LayerStats(
        sum(part.calls for part in parts), sum(part.sparse for part in parts),
        mean([(part.keep_ratio, part.sparse) for part in parts]),
        sum(part.seconds for part in parts),
        sum((part.reasons for part in parts), collections.Counter()),
        sum(part.masked for part in parts),
        mean([(part.block_density, part.masked) for part in parts]),
        sum((part.products for part in parts), collections.Counter()))


def forget_stats(module: nn.Module) -> None:
    layer = _known(module)
    if layer:
        layer.stats = None


def count(module: nn.Module, reason: str, report: Report | None = None) -> None:
    """Counts a call that ran as `report` says, or dense for `reason`."""
    layer = _of(module)
    with _lock:
        layer.stats = layer.stats or LayerStats()
        layer.stats._add(reason, report)
