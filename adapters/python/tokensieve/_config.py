"""SelectConfig and Profile: which tokens a layer keeps, and which layers do (docs/profile.md)."""

from __future__ import annotations

import ctypes as C
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from tokensieve import _abi, _files
from tokensieve._abi import ArgumentError, Error

# Names of the C enumerations, in their order.
CHOICES = {
    "budget": ("tau", "keep_ratio", "keep_count"),
    "share": ("head", "kv", "layer"),
    "fill": ("zero", "local"),
    "queries": ("kept", "all"),
    "arithmetic": ("fp32", "reference_rounding"),
    "dense_policy": ("break_even", "never"),
}
_INTEGERS = ("obs_window", "pool_width", "min_keep", "protect_first", "keep_count",
             "local_window", "sinks")
_MAX_PROFILE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class SelectConfig:
    """Which tokens a sparse layer keeps, and what the rows of dropped tokens get.

    Fields and defaults are those of the C++ struct (``tokensieve/select.h``); enumerations are
    strings. Values are checked when the object is made.

    Parameters
    ----------
    enabled : bool
        False: dense attention.
    budget : {"tau", "keep_ratio", "keep_count"}
        How many prefix tokens are kept.
    tau : float
        [0, 1): share of score mass that may be dropped. 0 runs dense.
    keep_ratio : float
        (0, 1]: kept share of the prefix.
    keep_count : int
        Kept prefix tokens.
    obs_window : int
        1 to 4096 last queries that score the prefix; always kept.
    pool_width : int
        Odd smoothing width, 1 to 1023.
    min_keep : int
        Floor on the kept prefix tokens.
    protect_first : int
        First tokens that are always kept.
    min_drop : float
        [0, 1): dense unless this share of the prefix is dropped.
    share : {"head", "kv", "layer"}
        Which heads have a set of kept tokens in common.
    fill : {"zero", "local"}
        What dropped rows get: zeros, or attention over the sinks and a window of neighbours.
    queries : {"kept", "all"}
        "kept" drops queries with their keys (whole prompts), "all" only keys before the chunk.
    local_window : int
        Neighbours of local fill, a multiple of 64.
    sinks : int
        First tokens that every row of local fill sees, 0 to 64.
    arithmetic : {"fp32", "reference_rounding"}
        "reference_rounding" rounds scores to bf16 where the paper's code does.
    dense_policy : {"break_even", "never"}
        "break_even" runs dense when sparse cannot win.

    Raises
    ------
    ArgumentError
        A value is outside what is allowed (also a ValueError).
    """

    enabled: bool = True
    budget: str = "tau"
    tau: float = 0.005
    keep_ratio: float = 0.2
    keep_count: int = 1024
    obs_window: int = 128
    pool_width: int = 7
    min_keep: int = 1024
    protect_first: int = 0
    min_drop: float = 0.0
    share: str = "head"
    fill: str = "zero"
    queries: str = "kept"
    local_window: int = 512
    sinks: int = 4
    arithmetic: str = "fp32"
    dense_policy: str = "break_even"
    text: ClassVar[str]  # as JSON
    _hash: ClassVar[int]

    def __post_init__(self) -> None:
        shape = _abi.new(_abi.Shape)
        shape.seqlen_q = shape.seqlen_kv = shape.num_q_heads = shape.num_kv_heads = 1
        shape.head_dim = 16
        plan = _abi.PTR()
        _abi.call("make_plan", C.byref(shape), C.byref(self._to_c()), None, C.byref(plan))
        _abi.library().tokensieve_plan_free(plan)
        # Plans are looked up by the hash at each call. Compiled graphs hold the text.
        object.__setattr__(self, "_hash", hash(dataclasses.astuple(self)))
        object.__setattr__(self, "text", json.dumps(dataclasses.asdict(self), default=float))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> Any:  # hashes of strings differ between processes
        return SelectConfig, dataclasses.astuple(self)

    def _to_c(self) -> Any:
        select = _abi.new(_abi.Select)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in CHOICES:
                allowed = CHOICES[field.name]
                if value not in allowed:
                    raise ArgumentError(
                        f"{field.name} is {value!r}; allowed: {', '.join(allowed)}")
                value = allowed.index(value)
            elif field.name in _INTEGERS and not _is_integer(value):
                raise ArgumentError(f"{field.name} is {value!r}; allowed: an integer")
            try:
                setattr(select, field.name, value)
            except TypeError:
                raise ArgumentError(f"{field.name} is {value!r}; allowed: a number") from None
            if field.name in _INTEGERS and getattr(select, field.name) != value:
                raise ArgumentError(f"{field.name} is {value}; that is too large")
        return select


LayerSelect = tuple[tuple[tuple[int, ...], SelectConfig], ...]
_Settings = TypeVar("_Settings", bound="LayerSettings")

# Those of a model; the others are policies of a call.
_PROFILE_KEYS = tuple(f.name for f in dataclasses.fields(SelectConfig)
                      if f.name not in ("enabled", "queries", "dense_policy"))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What must match before a profile is used on a model; empty or 0 matches anything."""

    architecture: str = ""
    num_layers: int = 0
    num_q_heads: int = 0
    num_kv_heads: int = 0
    head_dim: int = 0


class LayerSettings:
    """Settings of all sparse layers, and of some that differ: base of what has these two fields."""

    select: SelectConfig
    layer_select: LayerSelect

    def select_of(self, layer: int) -> SelectConfig:
        """What a sparse layer selects.

        Parameters
        ----------
        layer : int
        """
        return next((select for layers, select in self.layer_select if layer in layers),
                    self.select)

    def map_select(self: _Settings, change: Callable[[SelectConfig], SelectConfig]) -> _Settings:
        """A copy with the settings of all layers changed.

        Parameters
        ----------
        change : callable
            Gives the new settings for the old ones.
        """
        return dataclasses.replace(  # type: ignore[type-var]
            self, select=change(self.select),
            layer_select=tuple((layers, change(select)) for layers, select in self.layer_select))


@dataclasses.dataclass(frozen=True)
class Profile(LayerSettings):
    """Which layers of a model run sparse, and how; the JSON format is docs/profile.md.

    Parameters
    ----------
    sparse_layers : tuple of int
        Ascending, never 0.
    select : SelectConfig
        Of sparse layers that ``layer_select`` does not name.
    min_tokens : int
        Shorter prompts run dense.
    fingerprint : Fingerprint
        The model that the profile is for.
    model : str
        A name for people.
    drift : tuple of float
        Per layer, as measured; may be empty.
    layer_select : tuple of (tuple of int, SelectConfig)
        Layers, ascending, and what they do otherwise; no layer twice.
    """

    sparse_layers: tuple[int, ...]
    select: SelectConfig
    min_tokens: int = 4096
    fingerprint: Fingerprint = Fingerprint()
    model: str = ""
    drift: tuple[float, ...] = ()
    layer_select: LayerSelect = ()

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Profile:
        """Reads a profile.

        Parameters
        ----------
        path : path-like
            A JSON file, or the name of a shipped profile: ``"smollm2"``, ``"smollm2-128k"``,
            ``"llama-3.1-8b"``, ``"mistral-nemo-12b"``.

        Raises
        ------
        FileNotFoundError
            Neither a file nor a shipped profile has that name.
        ArgumentError
            The file is not a profile; the text names the key and what is allowed.
        """
        file = pathlib.Path(path)
        shipped = _files.shipped("profiles") / f"{os.fspath(path)}.json"
        if not file.is_file() and shipped.is_file():
            file = shipped
        if not file.is_file():
            names = sorted(p.stem for p in shipped.parent.glob("*.json"))
            raise FileNotFoundError(f"no profile {os.fspath(path)!r}: neither a file nor one of "
                                    f"the shipped {', '.join(names) or '(none)'}")
        if file.stat().st_size > _MAX_PROFILE_BYTES:
            raise ArgumentError(f"{file}: larger than 1 MiB, which no profile is")
        return Profile.parse(file.read_text(encoding="utf-8", errors="replace"), str(file))

    @staticmethod
    def parse(text: str, source: str = "profile") -> Profile:
        """The profile in a JSON text.

        Parameters
        ----------
        text : str
        source : str
            What errors call it.

        Raises
        ------
        ArgumentError
            The text is not a profile; the message names the key and what is allowed.
        """
        try:
            root = json.loads(text)
        except (ValueError, RecursionError) as problem:
            raise ArgumentError(f"{source}: not JSON: {problem}") from None
        try:
            return _parse(root)
        except (Error, TypeError) as problem:
            raise ArgumentError(f"{source}: {problem}") from None

    def to_json(self) -> str:
        """The profile as the JSON text of docs/profile.md."""
        select = _to_json(self.select)
        root = {"tokensieve_profile": 1, "model": self.model,
                "fingerprint": dataclasses.asdict(self.fingerprint),
                "sparse_layers": list(self.sparse_layers), "min_tokens": self.min_tokens,
                "select": select}
        if self.layer_select:
            root["layer_select"] = [
                {"layers": list(layers),
                 "select": {name: value for name, value in _to_json(other).items()
                            if value != select[name]}}
                for layers, other in self.layer_select]
        if self.drift:
            root["drift"] = list(self.drift)
        return json.dumps(root, indent=2) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the profile, which the library, the CLI and the llama.cpp plug-in read too.

        Parameters
        ----------
        path : path-like
            A file; replaced if it exists. Raises OSError where it cannot be written.
        """
        pathlib.Path(path).write_text(self.to_json(), encoding="utf-8")

    def check(self, model: Fingerprint) -> None:
        """Raises if this profile is for another model.

        Parameters
        ----------
        model : Fingerprint
            Of the model at hand, for example ``tokensieve.hf.fingerprint(model.config)``.

        Raises
        ------
        ArgumentError
            Fields differ; the text names them.
        """
        wrong = [f"{f.name} is {getattr(model, f.name)!r}, the profile's is {wanted!r}"
                 for f in dataclasses.fields(Fingerprint)
                 if (wanted := getattr(self.fingerprint, f.name))
                 and wanted != getattr(model, f.name)]
        if wrong:
            raise ArgumentError(f"the profile {self.model!r} is for another model: "
                                + "; ".join(wrong))


def _to_json(select: SelectConfig) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(select).items()
            if name in _PROFILE_KEYS}


def _expect(what: Any, message: str) -> None:
    if not what:
        raise ArgumentError(message)


def _members(value: Any, where: str, known: tuple[str, ...], required: tuple[str, ...] = ()
             ) -> dict[str, Any]:
    _expect(isinstance(value, dict), f"{where} is not a JSON object")
    for key in value:
        _expect(key in known, f"unknown key {key[:60]!r} in {where}")
    for key in required:
        _expect(key in value, f"{where} has no {key}")
    return value


def _count(value: Any, name: str, most: int) -> int:
    _expect(_is_integer(value) and 0 <= value <= most,
            f"{name} is {str(value)[:40]}; allowed: an integer from 0 to {most}")
    return value


def _layers(value: Any, name: str, most: int) -> tuple[int, ...]:
    _expect(isinstance(value, list) and all(_is_integer(n) and 1 <= n <= most for n in value)
            and all(a < b for a, b in zip(value, value[1:])),
            f"{name}; allowed: ascending integers from 1 to {most}")
    return tuple(value)


def _layer_select(groups: Any, common: dict[str, Any], most: int) -> LayerSelect:
    """Entries hold only what differs from the common settings."""
    _expect(isinstance(groups, list), "layer_select is not a list")
    seen: set[int] = set()
    result = []
    for group in groups:
        _members(group, "layer_select", ("layers", "select"), ("layers", "select"))
        layers = _layers(group["layers"], "layer_select: layers", most)
        _expect(layers, "layer_select: layers names no layer")
        _expect(not seen & set(layers), "layer_select: layers names a layer a second time")
        seen |= set(layers)
        differs = _members(group["select"], "layer_select: select", _PROFILE_KEYS)
        result.append((layers, SelectConfig(**{**common, **differs})))
    return tuple(result)


def _parse(root: Any) -> Profile:
    _members(root, "the profile",
             ("tokensieve_profile", "model", "fingerprint", "sparse_layers", "min_tokens",
              "select", "layer_select", "drift"),
             ("tokensieve_profile", "fingerprint", "sparse_layers", "select"))
    _expect(root["tokensieve_profile"] == 1 and _is_integer(root["tokensieve_profile"]),
            f"tokensieve_profile is {str(root['tokensieve_profile'])[:40]}; allowed: 1")
    names = tuple(f.name for f in dataclasses.fields(Fingerprint))
    given = _members(root["fingerprint"], "fingerprint", names)
    for name in names[1:]:
        _count(given.get(name, 0), name, 4096)
    _expect(isinstance(given.get("architecture", ""), str), "architecture is not a string")
    fingerprint = Fingerprint(**given)
    most = (fingerprint.num_layers or 4096) - 1
    layers = _layers(root["sparse_layers"], "sparse_layers", most)
    select = _members(root["select"], "select", _PROFILE_KEYS)
    drift = root.get("drift", [])
    _expect(isinstance(drift, list) and all(isinstance(d, (int, float)) and d >= 0
                                            for d in drift), "drift is not a list of numbers")
    model = root.get("model", "")
    _expect(isinstance(model, str), "model is not a string")
    return Profile(sparse_layers=layers, select=SelectConfig(**select),
                   layer_select=_layer_select(root.get("layer_select", []), select, most),
                   min_tokens=_count(root.get("min_tokens", 4096), "min_tokens", 2**31 - 1),
                   fingerprint=fingerprint, model=model, drift=tuple(drift))
