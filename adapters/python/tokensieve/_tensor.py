"""Foreign tensors as the C ABI's: torch, the array interface, DLPack. Nothing is copied."""

from __future__ import annotations

import ctypes as C
import struct
import sys
from typing import Any, NamedTuple

from tokensieve import _abi
from tokensieve._abi import ArgumentError, UnsupportedError

LAYOUTS = ("bshd", "bhsd")
_DLPACK_CPU = 1
_DLPACK_DTYPES = {(2, 32): 0, (2, 16): 1, (4, 16): 2}  # (type code, bits): tokensieve_dtype
_ARRAY_DTYPES = {"<f4": 0, "<f2": 1}
_TENSOR = struct.Struct("@IiP8q")  # _abi.Tensor: filled four times a call, so the fast way
_torch_dtypes: dict[Any, int] = {}


class View(NamedTuple):
    """A tensor as the library sees it; `c` points into `owner`, which must stay alive."""

    c: Any  # _abi.Tensor
    owner: Any
    torch: bool
    device: Any  # a torch.device if torch, else None: host memory
    cuda: bool = False
    read_only: bool = False


def is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a torch tensor has imported torch
    return torch is not None and isinstance(x, torch.Tensor)


def view(x: Any, name: str, layout: str) -> View:
    """x, a 4-D tensor in `layout`, as [batch, seq, head, dim]."""
    if layout not in LAYOUTS:
        raise ArgumentError(f"layout is {layout!r}; allowed: {', '.join(LAYOUTS)}")
    if is_torch(x):
        return _from_torch(x, name, layout)
    if hasattr(x, "__array_interface__"):
        return _from_array(x, name, layout)
    if hasattr(x, "__dlpack__"):
        return _from_dlpack(x, name, layout)
    raise ArgumentError(f"{name} is a {type(x).__name__}; allowed: a torch tensor, a NumPy array "
                        "or an object with __dlpack__ or __array_interface__")


def _make(name: str, dtype: int, data: int, shape: Any, strides: Any, layout: str) -> Any:
    if len(shape) != 4:
        raise ArgumentError(f"{name} has {len(shape)} dimensions; allowed: the 4 of {layout}")
    if layout == "bhsd":
        shape = (shape[0], shape[2], shape[1], shape[3])
        strides = (strides[0], strides[2], strides[1], strides[3])
    return _abi.Tensor.from_buffer_copy(_TENSOR.pack(_TENSOR.size, dtype, data, *shape, *strides))


def _from_torch(x: Any, name: str, layout: str) -> View:
    if not _torch_dtypes:
        torch = sys.modules["torch"]
        _torch_dtypes.update((getattr(torch, n), i) for i, n in enumerate(_abi.DTYPES))
    dtype, device = _torch_dtypes.get(x.dtype), x.device
    if dtype is None:
        raise ArgumentError(f"{name} has dtype {x.dtype}; allowed: {', '.join(_abi.DTYPES)}")
    if device.type not in ("cpu", "cuda") or x.layout != sys.modules["torch"].strided:
        raise UnsupportedError(f"{name} is a {x.layout} tensor on {device}; allowed: strided "
                               "tensors on cpu or cuda")
    c = _make(name, dtype, x.data_ptr(), x.shape, x.stride(), layout)
    return View(c, x, True, device, device.type == "cuda")


def _from_array(x: Any, name: str, layout: str) -> View:
    info = x.__array_interface__
    # bfloat16 arrays (ml_dtypes) travel as two opaque bytes.
    bfloat16 = getattr(getattr(x, "dtype", None), "name", "") == "bfloat16"
    dtype = 2 if bfloat16 else _ARRAY_DTYPES.get(info["typestr"])
    if dtype is None:
        raise ArgumentError(f"{name} has type {info['typestr']}; allowed: {', '.join(_abi.DTYPES)}")
    size = 4 if dtype == 0 else 2
    shape = info["shape"]
    strides = info.get("strides")
    if strides is None:
        strides = [size * _product(shape[i + 1:]) for i in range(len(shape))]
    if any(stride % size for stride in strides):
        raise ArgumentError(f"{name} has strides of {tuple(strides)} bytes; allowed: multiples of "
                            f"its {size} bytes an element")
    data, read_only = info["data"]
    return View(_make(name, dtype, data, shape, [s // size for s in strides], layout), x, False,
                None, False, read_only)


def _product(numbers: Any) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


class _DLTensor(C.Structure):
    _fields_ = [("data", C.c_void_p), ("device_type", C.c_int32), ("device_id", C.c_int32),
                ("ndim", C.c_int32), ("code", C.c_uint8), ("bits", C.c_uint8),
                ("lanes", C.c_uint16), ("shape", C.POINTER(C.c_int64)),
                ("strides", C.POINTER(C.c_int64)), ("byte_offset", C.c_uint64)]


def _from_dlpack(x: Any, name: str, layout: str) -> View:
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
    shape = t.shape[:t.ndim]
    strides = (t.strides[:t.ndim] if t.strides
               else [_product(shape[i + 1:]) for i in range(t.ndim)])
    return View(_make(name, dtype, (t.data or 0) + t.byte_offset, shape, strides, layout),
                (x, capsule), False, None)


def empty_like(q: View, layout: str) -> Any:
    """A contiguous tensor of q's shape in `layout`: torch for torch, else NumPy (bf16: float32)."""
    batch, seq, heads, dim = q.c.shape
    shape = (batch, seq, heads, dim) if layout == "bshd" else (batch, heads, seq, dim)
    if q.torch:
        return sys.modules["torch"].empty(shape, dtype=q.owner.dtype, device=q.device)
    import numpy as np
    return np.empty(shape, dtype="float16" if q.c.dtype == 1 else "float32")


def integers(q: View, shape: tuple[int, ...], bits: int) -> tuple[Any, int]:
    """An uninitialised integer array beside q, and its address."""
    if q.torch:
        torch = sys.modules["torch"]
        array = torch.empty(shape, dtype=getattr(torch, f"int{bits}"), device=q.device)
        return array, array.data_ptr()
    import numpy as np
    array = np.empty(shape, dtype=f"int{bits}")
    return array, array.ctypes.data


def floats(x: Any, q: View, name: str, count: int) -> tuple[Any, int]:
    """x as `count` float32 beside q, and its address."""
    if q.torch:
        torch = sys.modules["torch"]
        array = torch.as_tensor(x).detach().to(q.device, torch.float32).contiguous()
        data = array.data_ptr()
    else:
        import numpy as np
        array = np.ascontiguousarray(x, dtype="float32")
        data = array.ctypes.data
    if tuple(array.shape) != (count,):
        raise ArgumentError(f"{name} has shape {tuple(array.shape)}; allowed: one value for each "
                            f"of the {count} query heads")
    return array, data
