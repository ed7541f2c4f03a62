"""Overrides of what adapters do: for the code inside a `with`, or for one call of a model."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import json
from collections.abc import Iterable
from typing import Any, ClassVar

from tokensieve._abi import ArgumentError
from tokensieve._config import Profile
from tokensieve._select import SelectConfig


@dataclasses.dataclass(frozen=True)
class Override:
    """What :func:`sparse` and :func:`dense` return: a context manager (of any number of threads),
    and the value of the argument ``tokensieve`` of a model. None leaves a setting as it is."""

    enabled: bool = True
    layers: tuple[int, ...] | None = None
    min_tokens: int | None = None
    select: tuple[tuple[str, Any], ...] = ()
    text: ClassVar[str]

    def __post_init__(self) -> None:
        # Compiled graphs hold the text: torch.compile guards strings by their value.
        text = json.dumps([self.enabled, self.layers, self.min_tokens, self.select], default=float)
        object.__setattr__(self, "text", text)

    def __enter__(self) -> None:
        _entered.set((*_entered.get(), self))

    def __exit__(self, *problem: object) -> None:
        _entered.set(_entered.get()[:-1])


_entered: contextvars.ContextVar[tuple[Override, ...]] = contextvars.ContextVar("tokensieve",
                                                                               default=())


# Of the calls of attention with their (query, key) pairs if dense, while somebody measures; waiting
# for the device is then wanted.
reports: contextvars.ContextVar[list[Any] | None] = contextvars.ContextVar("reports", default=None)


def current() -> Override | None:
    """The innermost `with`."""
    entered = _entered.get()
    return entered[-1] if entered else None


def text_of(value: Any) -> str:
    """A model's argument `tokensieve` as a string; "" if it changes nothing."""
    if value is None or value is True:
        return ""
    if value is False:
        return _DENSE.text
    if isinstance(value, (Override, SelectConfig)):
        return value.text
    raise ArgumentError(f"tokensieve is a {type(value).__name__}; allowed: False, "
                        "tokensieve.sparse(...), tokensieve.dense() or a SelectConfig")


@functools.lru_cache(maxsize=64)
def parse(text: str) -> Override | None:
    """The inverse of `text_of`."""
    if not text:
        return None
    root = json.loads(text)
    if isinstance(root, dict):
        return Override(select=tuple(sorted(root.items())))
    enabled, layers, min_tokens, select = root
    return Override(enabled, None if layers is None else tuple(layers), min_tokens,
                    tuple((name, value) for name, value in select))


@functools.lru_cache(maxsize=64)
def apply(override: Override, profile: Profile) -> Profile:
    """The profile with the override's settings in all layers."""
    count = profile.fingerprint.num_layers
    layers = (profile.sparse_layers if override.layers is None else
              tuple(n for n in override.layers if not count or n < count))
    return dataclasses.replace(
        profile.map_select(functools.partial(dataclasses.replace, **dict(override.select))),
        sparse_layers=layers,
        min_tokens=profile.min_tokens if override.min_tokens is None else override.min_tokens)


def dense() -> Override:
    """`with tokensieve.dense():` models run dense (in this thread); or
    `model(..., tokensieve=tokensieve.dense())` for one call, where False is the same.

    Returns
    -------
    Override
        A context manager; any number of threads may enter it, also at once.
    """
    return _DENSE


def sparse(*, layers: Iterable[int] | None = None, min_tokens: int | None = None,
           **select: Any) -> Override:
    """`with tokensieve.sparse(tau=0.01, layers=range(8, 24)):` other settings (in this thread); or
    `model(..., tokensieve=tokensieve.sparse(tau=0.01))` for one call.

    Parameters
    ----------
    layers : iterable of int, optional
        The sparse layers; None: those of the model's policy. Layer 0 is never sparse.
    min_tokens : int, optional
        Shorter prompts run dense.
    **select
        Fields of SelectConfig that replace those of the model's policy. ``tau``, ``keep_ratio``
        or ``keep_count`` alone also chooses that budget.

    Returns
    -------
    Override
        A context manager; any number of threads may enter it, also at once.

    Raises
    ------
    ArgumentError
        An unknown field or a value that is not allowed.
    """
    budgets = [name for name in ("tau", "keep_ratio", "keep_count") if name in select]
    if len(budgets) == 1 and "budget" not in select:
        select["budget"] = budgets[0]
    known = {field.name for field in dataclasses.fields(SelectConfig)}
    for name in select:
        if name not in known:
            raise ArgumentError(f"unknown setting {name!r}; allowed: layers, min_tokens, "
                                + ", ".join(sorted(known)))
    SelectConfig(**select)  # raises for a bad value
    chosen = None if layers is None else tuple(sorted({int(n) for n in layers} - {0}))
    return Override(layers=chosen, min_tokens=min_tokens, select=tuple(sorted(select.items())))


_DENSE = Override(enabled=False)
