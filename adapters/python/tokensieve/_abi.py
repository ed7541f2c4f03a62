"""The C ABI (tokensieve_c.h and the headers beside it) through ctypes: structs, calls, errors.

Knows nothing of tensors.
"""

from __future__ import annotations

import ctypes as C
import functools
import os
import pathlib
from typing import Any

I32, I64, F32, F64, PTR = C.c_int32, C.c_int64, C.c_float, C.c_double, C.c_void_p
NUM_STAGES = 7
DTYPES = ("float32", "float16", "bfloat16")  # position: enum tokensieve_dtype
BACKENDS = ("auto", "ref", "cpu", "cuda")  # position: enum tokensieve_backend
PRODUCTS = ("auto", "exact", "split", "bf16")  # position: enum tokensieve_products
INVALID_ARGUMENT, UNSUPPORTED, DATA_ERROR = 1, 2, 6
DISABLED, LAYER_NOT_LISTED, BELOW_MIN_TOKENS = 1, 9, 10  # of enum tokensieve_dense_reason
KEYS_PROFILE, KEYS_ALL = 0, 1  # enum tokensieve_keys


def _struct(name: str, fields: list[tuple[str, Any]]) -> type[C.Structure]:
    return type(name, (C.Structure,), {"_fields_": [("struct_size", C.c_uint32)] + fields})


Status = _struct("Status", [("code", I32), ("message", C.c_char * 320)])
Tensor = _struct("Tensor", [("dtype", I32), ("data", PTR), ("shape", I64 * 4),
                            ("strides", I64 * 4)])
Executor = _struct("Executor", [("context", PTR), ("num_threads", PTR), ("run", PTR)])
Shape = _struct("Shape", [("causal", I32), ("batch", I64), ("seqlen_q", I64), ("seqlen_kv", I64),
                          ("num_q_heads", I32), ("num_kv_heads", I32), ("head_dim", I32),
                          ("dtype", I32), ("kv_dtype", I32), ("out_dtype", I32),
                          ("sm_scale", F32), ("softcap", F32), ("packed", I32),
                          ("reserved", I32)])
# Opaque: settings go in and come out by name, as JSON. The library's structs are smaller: to it,
# these are a newer program's, whose other fields are 0.
Select = _struct("Select", [("fields", C.c_uint32 * 127)])
Blocks = _struct("Blocks", [("fields", C.c_uint32 * 127)])
Options = _struct("Options", [("backend", I32), ("isa", I32), ("num_threads", I32),
                              ("num_ranks", I32), ("rank", I32), ("products", I32),
                              ("require_products", I32)])
PlanInfo = _struct("PlanInfo", [("path", I32), ("reason", I32), ("backend", I32), ("isa", I32),
                                ("num_sets", I32), ("prefix_len", I64), ("keep_capacity", I64),
                                ("workspace_bytes", C.c_uint64), ("block_pattern", I32),
                                ("num_masks", I32), ("row_tiles", I64), ("mask_words", I64),
                                ("products", I32), ("products_reason", I32)])
Inputs = _struct("Inputs", [("q", PTR), ("k", PTR), ("v", PTR), ("sink_logits", PTR),
                            ("kv_indices", PTR), ("bias", PTR), ("bias_row_stride", I64),
                            ("bias_slopes", PTR), ("cu_seqlens_q", PTR),
                            ("cu_seqlens_kv", PTR), ("keep", PTR), ("block_mask", PTR),
                            ("block_scores", PTR), ("block_thresholds", PTR),
                            ("block_sizes", PTR)])
Outputs = _struct("Outputs", [("out", PTR), ("lse", PTR)])
Report = _struct("Report", [("path", I32), ("reason", I32), ("isa", I32), ("keep_count", I64),
                            ("keep_ratio", F64), ("work", F64),
                            ("stage_ns", I64 * NUM_STAGES), ("block_density", F64),
                            ("products", I32), ("products_reason", I32)])
RunOptions = _struct("RunOptions", [("executor", PTR), ("should_cancel", PTR),
                                    ("cancel_context", PTR), ("report", PTR), ("stream", PTR),
                                    ("all_gather", PTR), ("gather_context", PTR)])
ALL_GATHER = C.CFUNCTYPE(I32, PTR, PTR, C.c_size_t, PTR)  # RunOptions.all_gather
KeepSet = _struct("KeepSet", [("indices", PTR), ("capacity", I64), ("count", PTR)])
BlockMask = _struct("BlockMask", [("num_masks", I32), ("bits", PTR), ("row_tiles", I64),
                                  ("words", I64)])
Fingerprint = _struct("Fingerprint", [("num_layers", I32), ("num_q_heads", I32),
                                      ("num_kv_heads", I32), ("head_dim", I32),
                                      ("architecture", C.c_char_p)])
LayerCall = _struct("LayerCall", [("layer", I32), ("seqlen_q", I64), ("seqlen_kv", I64),
                                  ("plain_causal", I32), ("reserved", I32)])

_STATUS_SIZE = C.sizeof(Status)

# The _init_sized function of each struct, without tokensieve_ and _init_sized.
INITS = {Status: "status", Executor: "executor", Shape: "shape", Select: "select",
         Blocks: "blocks", BlockMask: "block_mask", Options: "options", PlanInfo: "plan_info",
         Inputs: "inputs", Outputs: "outputs", Report: "report", RunOptions: "run_options",
         KeepSet: "keep_set", Fingerprint: "fingerprint", LayerCall: "layer_call"}


class Error(Exception):
    """The library refused a call; the text names the value, what is allowed and the fix.

    Attributes
    ----------
    code : str
        The library's name of the error, for example ``"unsupported"``; "" if it comes from Python.
    """

    code: str = ""


class ArgumentError(Error, ValueError):
    """An argument is wrong: a shape, type, device or setting."""


class UnsupportedError(Error, NotImplementedError):
    """The arguments are valid, but nothing in this build or on this device can do it."""


def library_path() -> pathlib.Path:
    """The library beside this file, or the one that TOKENSIEVE_LIBRARY names."""
    named = os.environ.get("TOKENSIEVE_LIBRARY")
    return pathlib.Path(named) if named else pathlib.Path(__file__).parent / "libtokensieve.so"


@functools.lru_cache(maxsize=1)
def library() -> C.CDLL:
    """libtokensieve.so, loaded at the first use."""
    path = library_path()
    if not path.exists():
        raise Error(f"{path} does not exist; install the package with `pip install .`, or set "
                    "TOKENSIEVE_LIBRARY to a libtokensieve.so")
    c = C.CDLL(str(path))
    for name in ("version", "backend_name", "isa_name", "code_name", "dense_reason_text",
                 "products_reason_text", "stage_name", "select_word", "blocks_word"):
        getattr(c, f"tokensieve_{name}").restype = C.c_char_p
    c.tokensieve_run.argtypes = [PTR, PTR, PTR, PTR, C.c_size_t, PTR, PTR]
    c.tokensieve_select_tokens.argtypes = [PTR, PTR, PTR, PTR, C.c_size_t, PTR, PTR]
    c.tokensieve_estimate_blocks.argtypes = [PTR, PTR, PTR, PTR, C.c_size_t, PTR, PTR]
    c.tokensieve_read_report.argtypes = [PTR, PTR, C.c_size_t, PTR, PTR, PTR]
    c.tokensieve_plan_free.argtypes = [PTR]
    c.tokensieve_thread_pool_free.argtypes = [PTR]
    c.tokensieve_profile_free.argtypes = [PTR]
    return c


@functools.lru_cache(maxsize=None)
def _defaults(kind: type[C.Structure]) -> bytes:
    value = kind()
    size = C.c_size_t(C.sizeof(kind))
    getattr(library(), f"tokensieve_{INITS[kind]}_init_sized")(C.byref(value), size)
    return bytes(value)


def new(kind: type[C.Structure]) -> Any:
    """A struct with the library's defaults."""
    return kind.from_buffer_copy(_defaults(kind))


@functools.lru_cache(maxsize=None)
def function(name: str) -> Any:
    return getattr(library(), f"tokensieve_{name}")


def call(name: str, *arguments: Any) -> None:
    """Calls tokensieve_<name>(*arguments, &status) and raises its error."""
    status = Status(_STATUS_SIZE)
    code = function(name)(*arguments, C.byref(status))
    if code != 0:
        raise error(code, status.message.decode(errors="replace"))


def text(name: str, *arguments: Any) -> str:
    """What tokensieve_<name>(*arguments, text, capacity, &length, &status) writes."""
    length, capacity = C.c_size_t(), 1 << 12
    while True:
        buffer = C.create_string_buffer(capacity)
        call(name, *arguments, buffer, C.c_size_t(capacity), C.byref(length))
        if length.value < capacity:
            return buffer.value.decode()
        capacity = length.value + 1


def reason_text(reason: int) -> str:
    """Of an enum tokensieve_dense_reason; "" for none."""
    return library().tokensieve_dense_reason_text(reason).decode() if reason else ""


def products_reason_text(reason: int) -> str:
    """Of an enum tokensieve_products_reason; "" for none."""
    return library().tokensieve_products_reason_text(reason).decode() if reason else ""


def error(code: int, message: str) -> Error:
    kind = {INVALID_ARGUMENT: ArgumentError, DATA_ERROR: ArgumentError,
            UNSUPPORTED: UnsupportedError}.get(code, Error)
    problem = kind(message)
    problem.code = library().tokensieve_code_name(code).decode()
    return problem
