"""Profile: which layers of a model run sparse, and how (docs/profile.md).

How profiles are read and written, what they allow and what they choose is the library's.
"""

from __future__ import annotations

import ctypes as C
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from tokensieve import _abi, _files
from tokensieve._abi import ArgumentError
from tokensieve._blocks import BlockConfig
from tokensieve._select import SelectConfig

LayerSelect = tuple[tuple[tuple[int, ...], SelectConfig], ...]
LayerBlocks = tuple[tuple[tuple[int, ...], BlockConfig], ...]


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What must match before a profile is used on a model; empty or 0 matches anything."""

    architecture: str = ""
    num_layers: int = 0
    num_q_heads: int = 0
    num_kv_heads: int = 0
    head_dim: int = 0

    def _to_c(self) -> Any:
        model = _abi.new(_abi.Fingerprint)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            setattr(model, field.name, value.encode() if isinstance(value, str) else value)
        return model


@dataclasses.dataclass(frozen=True)
class LayerChoice:
    """What a profile chooses for one attention call of one layer.

    Attributes
    ----------
    select : SelectConfig
        The settings; ``enabled=False``: dense.
    reason : str
        Why dense, or "".
    code : int
        The reason as ``enum tokensieve_dense_reason``.
    blocks : BlockConfig or None
        Block masks of the call, over the selected tokens or over all.
    products : {"auto", "exact", "split", "bf16"}
        The profile's.
    """

    select: SelectConfig
    reason: str
    code: int
    blocks: BlockConfig | None = None
    products: str = "auto"

    @property
    def is_for_the_library(self) -> bool:
        """Also where selection is off: tokensieve's dense attention can be had so."""
        return self.select.enabled or self.code == _abi.DISABLED


@dataclasses.dataclass(frozen=True)
class Profile:
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
    blocks : BlockConfig, optional
        Block masks of sparse layers that ``layer_blocks`` does not name; with an estimated pattern.
    layer_blocks : tuple of (tuple of int, BlockConfig)
        Likewise.
    products : {"auto", "exact", "split", "bf16"}
        How the model's attention multiplies on the CPU (docs/products.md).
    """

    sparse_layers: tuple[int, ...]
    select: SelectConfig
    min_tokens: int = 4096
    fingerprint: Fingerprint = Fingerprint()
    model: str = ""
    drift: tuple[float, ...] = ()
    layer_select: LayerSelect = ()
    blocks: BlockConfig | None = None
    layer_blocks: LayerBlocks = ()
    products: str = "auto"

    def __post_init__(self) -> None:
        for name in ("sparse_layers", "drift"):  # lists would not be hashable
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("layer_select", "layer_blocks"):
            object.__setattr__(self, name, tuple(
                (tuple(layers), settings) for layers, settings in getattr(self, name)))
        if self.blocks is not None and self.blocks.pattern == "none":
            object.__setattr__(self, "blocks", None)

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
        return _Handle("load", os.fsencode(file)).profile()

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
        if "\0" in text:  # where a C string ends
            raise ArgumentError(f"{source} is not valid JSON: it holds a NUL character")
        return _Handle("parse", text.encode(errors="replace"), source.encode(errors="replace"),
                       _abi.KEYS_PROFILE).profile()

    @staticmethod
    def default(model: Fingerprint) -> Profile:
        """The profile of a model that nobody has measured: the upper half of its layers, keep_ratio
        .2, one set per layer, local fill.

        Parameters
        ----------
        model : Fingerprint
            Its num_layers says which layers these are.
        """
        return _Handle("default", C.byref(model._to_c())).profile()

    def select_of(self, layer: int) -> SelectConfig:
        """What a sparse layer selects.

        Parameters
        ----------
        layer : int
        """
        return next((select for layers, select in self.layer_select if layer in layers),
                    self.select)

    def blocks_of(self, layer: int) -> BlockConfig | None:
        """The block masks of a sparse layer.

        Parameters
        ----------
        layer : int
        """
        return next((blocks for layers, blocks in self.layer_blocks if layer in layers),
                    self.blocks)

    def map_select(self, change: Callable[[SelectConfig], SelectConfig]) -> Profile:
        """A copy with the settings of all layers changed.

        Parameters
        ----------
        change : callable
            Gives the new settings for the old ones.
        """
        return dataclasses.replace(
            self, select=change(self.select),
            layer_select=tuple((layers, change(select)) for layers, select in self.layer_select))

    def choose(self, layer: int, seqlen_q: int, seqlen_kv: int) -> LayerChoice:
        """Whether a causal attention call runs sparse, and with which settings, in every engine.

        Parameters
        ----------
        layer : int
        seqlen_q, seqlen_kv : int
            Queries and keys of a sequence. Equal: the whole prompt; fewer queries: a chunk of it.

        Returns
        -------
        LayerChoice

        Raises
        ------
        ArgumentError
            The profile or a length is not possible.
        """
        return _choose(self, layer, seqlen_q, seqlen_kv)

    def to_json(self) -> str:
        """The profile as the JSON text of docs/profile.md."""
        return _handle(self).to_json(_abi.KEYS_PROFILE)

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
        _abi.call("profile_check", _handle(self).pointer, C.byref(model._to_c()))


class _Handle:
    """A C profile that tokensieve_profile_<function> makes, freed with this object."""

    def __init__(self, function: str, *arguments: Any) -> None:
        self.free = _abi.library().tokensieve_profile_free  # modules go first when Python ends
        self.pointer = _abi.PTR()
        _abi.call(f"profile_{function}", *arguments, C.byref(self.pointer))

    def __del__(self) -> None:
        if getattr(self, "pointer", None):
            self.free(self.pointer)

    def to_json(self, keys: int) -> str:
        return _abi.text("profile_to_json", self.pointer, keys)

    def profile(self) -> Profile:
        root = json.loads(self.to_json(_abi.KEYS_ALL))
        common, blocks, groups = root["select"], root["blocks"], root.get("layer_select", ())
        return Profile(
            sparse_layers=root["sparse_layers"], select=SelectConfig(**common),
            min_tokens=root["min_tokens"], fingerprint=Fingerprint(**root["fingerprint"]),
            model=root["model"], drift=root.get("drift", ()),
            layer_select=tuple((group["layers"], SelectConfig(**{**common, **group["select"]}))
                               for group in groups if group["select"] or "blocks" not in group),
            blocks=BlockConfig(**blocks), products=root["products"],
            layer_blocks=tuple((group["layers"], BlockConfig(**{**blocks, **group["blocks"]}))
                               for group in groups if "blocks" in group))


def _groups(profile: Profile) -> list[dict[str, Any]]:
    """Entries of layer_select: layers with one selection and one kind of blocks each."""
    apart = {layer: blocks for layers, blocks in profile.layer_blocks for layer in layers}
    named = [layer for layers, _ in profile.layer_blocks for layer in layers]
    for layer in named:
        if named.count(layer) > 1:
            raise ArgumentError(f"the profile: layer_blocks names {layer} a second time")
    selected = {layer for layers, _ in profile.layer_select for layer in layers}
    entries: list[tuple[tuple[int, ...], SelectConfig | None]] = [*profile.layer_select]
    entries += [(tuple(layer for layer in layers if layer not in selected), None)
                for layers, _ in profile.layer_blocks]
    groups = []
    for layers, select in entries:
        for blocks in dict.fromkeys(apart.get(layer) for layer in layers):
            group: dict[str, Any] = {
                "layers": [layer for layer in layers if apart.get(layer) == blocks]}
            if select is not None:
                group["select"] = json.loads(select.text)
            if blocks is not None:
                group["blocks"] = json.loads(blocks.text)
            groups.append(group)
    return groups


@functools.lru_cache(maxsize=64)
def _handle(profile: Profile) -> _Handle:
    root = {"tokensieve_profile": 1, "model": profile.model,
            "fingerprint": dataclasses.asdict(profile.fingerprint),
            "sparse_layers": profile.sparse_layers, "min_tokens": profile.min_tokens,
            "products": profile.products,
            "select": json.loads(profile.select.text), "drift": profile.drift,
            "layer_select": _groups(profile)}
    if profile.blocks is not None:
        root["blocks"] = json.loads(profile.blocks.text)
    return _Handle("parse", json.dumps(root).encode(), b"the profile", _abi.KEYS_ALL)


@functools.lru_cache(maxsize=1024)
def _choose(profile: Profile, layer: int, seqlen_q: int, seqlen_kv: int) -> LayerChoice:
    call, select, reason = _abi.new(_abi.LayerCall), _abi.new(_abi.Select), _abi.I32()
    call.layer, call.seqlen_q, call.seqlen_kv = layer, seqlen_q, seqlen_kv
    _abi.call("profile_choose", _handle(profile).pointer, C.byref(call), C.byref(select),
              C.byref(reason))
    blocks = None
    if profile.blocks is not None or profile.layer_blocks:
        chosen = _abi.new(_abi.Blocks)
        _abi.call("profile_choose_blocks", _handle(profile).pointer, C.byref(call),
                  C.byref(chosen))
        blocks = BlockConfig._from_c(chosen)
    return LayerChoice(SelectConfig._from_c(select), _abi.reason_text(reason.value), reason.value,
                       None if blocks is None or blocks.pattern == "none" else blocks,
                       profile.products)
