"""Foreign tensors as the C ABI's: torch, the array interface, DLPack. Nothing is copied."""

from __future__ import annotations

import ctypes as C
import functools
import math
import sys
from typing import Any, NamedTuple

from tokensieve import _abi
from tokensieve._abi import ArgumentError, UnsupportedError

LAYOUTS = ("bshd", "bhsd")
_DLPACK_CPU = 1
_DLPACK_DTYPES = {(2, 32): 0, (2, 16): 1, (4, 16): 2}  # (type code, bits): tokensieve_dtype
_ARRAY_DTYPES = {"<f4": 0, "<f2": 1}


class View(NamedTuple):
    """A tensor as its owner describes it. `owner` must stay alive while `data` is used."""

    key: tuple[Any, ...]  # (dtype, device or None, shape, strides, read-only): see `describe`
    data: int
    owner: Any

    @property
    def torch(self) -> bool:
        return self.key[1] is not None

    @property
    def cuda(self) -> bool:
        return self.torch and self.key[1].type == "cuda"


def is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a torch tensor has imported torch
    return torch is not None and isinstance(x, torch.Tensor)


def view(x: Any, name: str) -> View:
    """x, any kind of tensor; its dtype and shape are not checked."""
    if is_torch(x):
        if not (x.is_cpu or x.is_cuda) or x.is_sparse:
            raise UnsupportedError(f"{name} is a {x.layout} tensor on {x.device}; allowed: strided "
                                   "tensors on cpu or cuda")
        return View((x.dtype, x.device, x.shape, x.stride(), False), x.data_ptr(), x)
    interface = getattr(x, "__array_interface__", None)
    if interface is not None:
        return _from_array(x, interface, name)
    if hasattr(x, "__dlpack__"):
        return _from_dlpack(x, name)
    raise ArgumentError(f"{name} is a {type(x).__name__}; allowed: a torch tensor, a NumPy array "
                        "or an object with __dlpack__ or __array_interface__")


def describe(key: tuple[Any, ...], name: str, layout: str, packed: bool = False) -> Any:
    """The C struct [batch, seq, head, dim] of tensors with this View.key in `layout`, or [tokens,
    heads, dim] if `packed`; no data."""
    dtype, device, shape, strides, _ = key
    if layout not in LAYOUTS:
        raise ArgumentError(f"layout is {layout!r}; allowed: {', '.join(LAYOUTS)}")
    if device is not None:
        torch = sys.modules["torch"]
        code = next((i for i, n in enumerate(_abi.DTYPES) if getattr(torch, n) == dtype), None)
        if code is None:
            raise ArgumentError(f"{name} has dtype {dtype}; allowed: {', '.join(_abi.DTYPES)}")
        dtype = code
    if packed:
        if len(shape) != 3:
            raise ArgumentError(f"{name} has {len(shape)} dimensions; allowed: the 3 of packed "
                                "sequences, [tokens, heads, dim]")
        shape, strides = (1, *shape), (shape[0] * strides[0], *strides)
    if len(shape) != 4:
        raise ArgumentError(f"{name} has {len(shape)} dimensions; allowed: the 4 of {layout}")
    if layout == "bhsd":
        shape, strides = ([x[0], x[2], x[1], x[3]] for x in (shape, strides))
    return _abi.Tensor(C.sizeof(_abi.Tensor), dtype, None, tuple(shape), tuple(strides))


def _from_array(x: Any, info: dict[str, Any], name: str) -> View:
    kind, shape, strides, (data, read_only) = (info["typestr"], info["shape"], info.get("strides"),
                                               info["data"])
    dtype = _ARRAY_DTYPES.get(kind)
    # bfloat16 arrays (ml_dtypes) travel as two opaque bytes.
    if dtype is None and getattr(getattr(x, "dtype", None), "name", "") == "bfloat16":
        dtype = 2
    if dtype is None:
        raise ArgumentError(f"{name} has type {kind}; allowed: {', '.join(_abi.DTYPES)}")
    size = 4 if dtype == 0 else 2
    if strides is None:
        elements = _contiguous(shape)
    elif any(stride % size for stride in strides):
        raise ArgumentError(f"{name} has strides of {strides} bytes; allowed: multiples of its "
                            f"{size} bytes an element")
    else:
        elements = tuple(stride // size for stride in strides)
    return View((dtype, None, shape, elements, read_only), data, x)


@functools.lru_cache(maxsize=256)
def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple(math.prod(shape[i + 1:]) for i in range(len(shape)))


class _DLTensor(C.Structure):
    _fields_ = [("data", C.c_void_p), ("device_type", C.c_int32), ("device_id", C.c_int32),
                ("ndim", C.c_int32), ("code", C.c_uint8), ("bits", C.c_uint8),
                ("lanes", C.c_uint16), ("shape", C.POINTER(C.c_int64)),
                ("strides", C.POINTER(C.c_int64)), ("byte_offset", C.c_uint64)]


def _from_dlpack(x: Any, name: str) -> View:
    device, _ = x.__dlpack_device__()
    if device != _DLPACK_CPU:
        raise UnsupportedError(f"{name} is on DLPack device {int(device)}; allowed: host memory, "
                               "or a torch tensor on cuda (torch.from_dlpack)")
    capsule = x.__dlpack__()  # not consumed: it frees what it holds when it goes
    pointer = C.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = C.c_void_p, [C.py_object, C.c_char_p]
    t = _DLTensor.from_address(pointer(capsule, b"dltensor"))
    dtype = _DLPACK_DTYPES.get((t.code, t.bits)) if t.lanes == 1 else None
    if dtype is None:
        raise ArgumentError(f"{name} has DLPack type code {t.code} of {t.bits} bits; allowed: "
                            f"{', '.join(_abi.DTYPES)}")
    shape = tuple(t.shape[:t.ndim])
    strides = tuple(t.strides[:t.ndim]) if t.strides else _contiguous(shape)
    return View((dtype, None, shape, strides, False), (t.data or 0) + t.byte_offset, (x, capsule))


def empty_like(q: View) -> View:
    """A contiguous tensor of q's shape: torch for torch, else NumPy (bfloat16: float32)."""
    dtype, device, shape, _, _ = q.key
    if device is not None:
        torch = sys.modules["torch"]
        array = (torch.empty_like(q.owner) if q.owner.is_contiguous() else
                 torch.empty(shape, dtype=dtype, device=device))
        return View((dtype, device, shape, array.stride(), False), array.data_ptr(), array)
    import numpy as np
    return view(np.empty(shape, dtype="float16" if dtype == 1 else "float32"), "out")


def integers(q: View, shape: tuple[int, ...], bits: int) -> tuple[Any, int]:
    """An uninitialised integer array beside q, and its address."""
    if q.torch:
        torch = sys.modules["torch"]
        array = torch.empty(shape, dtype=getattr(torch, f"int{bits}"), device=q.key[1])
        return array, array.data_ptr()
    import numpy as np
    array = np.empty(shape, dtype=f"int{bits}")
    return array, array.ctypes.data


def as_integers(x: Any, q: View, name: str, dimensions: int, bits: int) -> tuple[Any, int]:
    """x as a contiguous integer array beside q, and its address; copied only where it must be."""
    if q.torch:
        torch = sys.modules["torch"]
        given = torch.as_tensor(x, device=q.key[1])
        whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
        array = given.to(getattr(torch, f"int{bits}")).contiguous()
        data = array.data_ptr()
    else:
        import numpy as np
        given = np.asarray(x)
        whole = given.dtype.kind in "iu"
        array = np.ascontiguousarray(given, dtype=f"int{bits}")
        data = array.ctypes.data
    if not whole and 0 not in array.shape:
        raise ArgumentError(f"{name} has dtype {given.dtype}; allowed: integers")
    if array.dtype != given.dtype and not q.cuda and (array != given).any():
        raise ArgumentError(f"{name} holds {int(given[array != given][0])}; allowed: integers of "
                            f"{bits} bits")
    if array.ndim != dimensions:
        raise ArgumentError(f"{name} has {array.ndim} dimensions; allowed: {dimensions}")
    return array, data


def floats(x: Any, q: View, name: str, shape: tuple[int, ...], what: str) -> tuple[Any, int]:
    """x as contiguous float32 of that shape beside q, and its address."""
    if q.torch:
        torch = sys.modules["torch"]
        array = torch.as_tensor(x).detach().to(q.key[1], torch.float32).contiguous()
        data = array.data_ptr()
    else:
        import numpy as np
        array = np.ascontiguousarray(x, dtype="float32")
        data = array.ctypes.data
    check_shape(array, name, shape, what)
    return array, data


def check_shape(array: Any, name: str, shape: tuple[int, ...], what: str) -> None:
    if tuple(array.shape) != shape:
        raise ArgumentError(f"{name} has shape {tuple(array.shape)}; allowed: {shape}, {what}")
