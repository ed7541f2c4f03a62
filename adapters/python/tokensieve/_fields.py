"""Settings objects whose fields are those of a C++ struct."""

from __future__ import annotations

import ctypes as C
import dataclasses
import json
import math
from typing import Any, ClassVar, TypeVar

from tokensieve import _abi
from tokensieve._abi import ArgumentError

_T = TypeVar("_T", bound="Fields")


class Fields:
    """The base of frozen dataclasses, which the library checks when an object is made."""

    _c: ClassVar[tuple[str, Any]]  # the name in functions of the C ABI, and the C struct
    text: ClassVar[str]  # as JSON
    _hash: ClassVar[int]

    def __post_init__(self) -> None:
        # Plans are looked up by the hash at each call. Compiled graphs hold the text.
        name = self._c[0]
        object.__setattr__(self, "text", _abi.text(f"{name}_to_json", C.byref(self._to_c())))
        object.__setattr__(self, "_hash", hash(self._values()))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> Any:  # hashes of strings differ between processes
        return type(self), self._values()

    def _values(self) -> tuple[Any, ...]:
        return dataclasses.astuple(self)  # type: ignore[call-overload]

    def _to_c(self) -> Any:
        name, kind = self._c
        values = dataclasses.asdict(self)  # type: ignore[call-overload]
        for field, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):  # JSON has no such numbers
                raise ArgumentError(f"{field} is {value}; allowed: a finite number")
        settings = _abi.new(kind)
        text = json.dumps(values, default=float)
        _abi.call(f"{name}_merge_json", text.encode(), C.byref(settings))
        return settings

    @classmethod
    def _from_c(cls: type[_T], settings: Any) -> _T:
        return cls(**json.loads(_abi.text(f"{cls._c[0]}_to_json", C.byref(settings))))
