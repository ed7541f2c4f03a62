"""Overrides of what adapters do, for the code inside a `with`."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from tokensieve._abi import ArgumentError
from tokensieve._config import SelectConfig


@dataclasses.dataclass(frozen=True)
class Override:
    """None fields leave the model's own policy as it is."""

    enabled: bool = True
    layers: frozenset[int] | None = None
    min_tokens: int | None = None
    select: tuple[tuple[str, Any], ...] = ()


_current: contextvars.ContextVar[Override | None] = contextvars.ContextVar("tokensieve",
                                                                          default=None)


# Of the calls of attention, while somebody measures; waiting for the device is then wanted.
reports: contextvars.ContextVar[list[Any] | None] = contextvars.ContextVar("reports", default=None)


def current() -> Override | None:
    return _current.get()


@contextlib.contextmanager
def _using(override: Override) -> Iterator[None]:
    token = _current.set(override)
    try:
        yield
    finally:
        _current.reset(token)


def dense() -> contextlib.AbstractContextManager[None]:
    """`with tokensieve.dense():` models run dense (in this thread)."""
    return _using(Override(enabled=False))


def sparse(*, layers: Iterable[int] | None = None, min_tokens: int | None = None,
           **select: Any) -> contextlib.AbstractContextManager[None]:
    """`with tokensieve.sparse(tau=0.01, layers=range(8, 24)):` other settings (in this thread).

    Parameters
    ----------
    layers : iterable of int, optional
        The sparse layers; None: those of the model's policy. Layer 0 is never sparse.
    min_tokens : int, optional
        Shorter prompts run dense.
    **select
        Fields of SelectConfig that replace those of the model's policy. ``tau``, ``keep_ratio``
        or ``keep_count`` alone also chooses that budget.

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
    return _using(Override(layers=None if layers is None else frozenset(layers) - {0},
                           min_tokens=min_tokens, select=tuple(sorted(select.items()))))
