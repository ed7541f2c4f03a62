"""BlockConfig: which tiles of (query, key) pairs a call computes."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from tokensieve import _abi
from tokensieve._fields import Fields


@dataclasses.dataclass(frozen=True)
class BlockConfig(Fields):
    """Which 128 x 128 tiles of (query, key) pairs a call computes, of all tokens or of those that
    are kept (docs/blocks.md).

    Fields and defaults are those of the C++ struct (``tokensieve/blocks.h``); enumerations are
    strings. Values are checked when the object is made.

    Parameters
    ----------
    pattern : {"none", "given", "scores", "flex", "pooled", "antidiagonal",
               "vertical_slash"}
        Where masks come from: nowhere, the call's ``block_mask`` or ``block_scores``, or an
        estimate from q and k: FlexPrefill, FlashPrefill, XAttention, MInference.
    share : {"head", "kv", "layer"}
        given, scores, pooled: masks per query head, kv head or layer.
    gamma : float
        flex: [0, 1]: share of the probe's mass that lines and tiles cover.
    flex_tau : float
        flex: [0, 2]: heads below this divergence take query-aware tiles.
    min_budget, max_budget : int
        flex: tokens that lines cover at least, and at most (0: no limit).
    threshold : float
        [0, 1]. antidiagonal: share of a row tile's mass; scores: visited tiles score more.
    stride : {8, 16, 32}
        antidiagonal: tokens of a group.
    alpha : float
        pooled: [0, 1]: tiles of this share of the row's best are visited.
    sink_tiles, window_tiles, last_tiles : int
        pooled: first key tiles and newest of a row, always visited; newest row tiles, which visit
        every tile.
    dense_rows : int
        Newest rows that visit every tile, whatever the pattern.
    verticals, slashes : int
        vertical_slash: columns (also the most that ``block_sizes`` may give) and distances of a
        head.
    slash_ratio : float
        vertical_slash: [0, 1]: that share of the length for both, 1 : 4, instead of the counts (0).

    Raises
    ------
    ArgumentError
        A value is outside what is allowed (also a ValueError).
    """

    pattern: str = "none"
    share: str = "head"
    gamma: float = 0.9
    flex_tau: float = 0.1
    min_budget: int = 1024
    max_budget: int = 0
    threshold: float = 0.9
    stride: int = 16
    alpha: float = 0.1
    sink_tiles: int = 2
    window_tiles: int = 4
    last_tiles: int = 2
    dense_rows: int = 0
    verticals: int = 1000
    slashes: int = 6096
    slash_ratio: float = 0.0
    _c: ClassVar[tuple[str, Any]] = ("blocks", _abi.Blocks)

    __hash__ = Fields.__hash__
