"""attention and select_tokens: plan once per shape, run on the tensors' device."""

from __future__ import annotations

import ctypes as C
import dataclasses
import functools
import os
import sys
import threading
from typing import Any

from tokensieve import _abi, _context, _tensor
from tokensieve._abi import ArgumentError
from tokensieve._config import SelectConfig

_PATHS = ("dense", "sparse")


@dataclasses.dataclass(frozen=True)
class Report:
    """What a call did.

    Attributes
    ----------
    path : {"dense", "sparse"}
        "sparse" if any sequence ran sparse.
    reason : str
        Why the first dense sequence ran dense, or "".
    keep_count : int
        Kept tokens of all sequences together.
    keep_ratio : float
        keep_count / (batch * seqlen_kv).
    attention_pairs : float
        Computed (query, key) pairs per head / causal pairs.
    stage_ns : dict of str to int
        Wall time by stage (CPU; zeros on CUDA).
    backend, isa : str
        What ran.
    """

    path: str
    reason: str
    keep_count: int
    keep_ratio: float
    attention_pairs: float
    stage_ns: dict[str, int]
    backend: str
    isa: str


@dataclasses.dataclass(frozen=True)
class KeptTokens:
    """The tokens that a sparse layer would keep.

    Attributes
    ----------
    indices : int32 array [batch, num_sets, capacity]
        Ascending positions; the first ``count[b]`` of a row count. No sets if ``reason`` is given.
    count : int64 array [batch]
        Kept tokens of each sequence; the number of keys: the sequence runs dense.
    reason : str
        Why every sequence runs dense, or "".
    """

    indices: Any
    count: Any
    reason: str


@functools.lru_cache(maxsize=1)
def _dense() -> SelectConfig:
    return SelectConfig(enabled=False)


class _Plan:
    """A C plan, freed with this object."""

    def __init__(self, shape: Any, select: SelectConfig, backend: int, threads: int) -> None:
        options = _abi.new(_abi.Options)
        options.backend, options.num_threads = backend, threads
        self.free = _abi.library().tokensieve_plan_free  # modules go first when Python ends
        self.handle = _abi.PTR()
        _abi.call("make_plan", C.byref(shape), C.byref(select._to_c()), C.byref(options),
                  C.byref(self.handle))
        self.info = _abi.new(_abi.PlanInfo)
        _abi.call("plan_get_info", self.handle, C.byref(self.info))

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.free(self.handle)


@functools.lru_cache(maxsize=128)
def _plan(shape: tuple[Any, ...], select: SelectConfig, backend: int, threads: int,
          device: Any) -> _Plan:
    c = _abi.new(_abi.Shape)
    (c.batch, c.seqlen_q, c.seqlen_kv, c.num_q_heads, c.num_kv_heads, c.head_dim, c.dtype,
     c.kv_dtype, c.out_dtype, c.sm_scale, c.softcap, c.causal) = shape
    return _Plan(c, select, backend, threads)


class _Pool:
    """The library's threads; one call at a time uses them, others wait."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted = 0  # 0: as many as torch uses, or the process may
        self.size = 0
        self.handle = _abi.PTR()
        self.executor: Any = None

    def num_threads(self) -> int:
        if self.wanted:
            return self.wanted
        torch = sys.modules.get("torch")
        return torch.get_num_threads() if torch else len(os.sched_getaffinity(0))

    def get(self, threads: int) -> Any:
        """The executor; call with the lock held."""
        if self.size != threads:
            if self.handle:
                _abi.library().tokensieve_thread_pool_free(self.handle)
            self.size, self.handle, self.executor = 0, _abi.PTR(), _abi.new(_abi.Executor)
            _abi.call("thread_pool_create", threads, C.byref(self.handle))
            _abi.library().tokensieve_thread_pool_executor(self.handle, C.byref(self.executor))
            self.size = threads
        return self.executor


_pool = _Pool()
_local = threading.local()


def _forget_pool() -> None:
    """In a forked child the workers do not exist, and the lock may be held for ever."""
    wanted = _pool.wanted
    _pool.__init__()  # type: ignore[misc]
    _pool.wanted = wanted


os.register_at_fork(after_in_child=_forget_pool)


def set_num_threads(count: int) -> None:
    """Sets how many threads CPU calls use.

    Parameters
    ----------
    count : int
        0 (default): as many as torch uses, or without torch as the process may.
    """
    if not isinstance(count, int) or not 0 <= count <= 1024:
        raise ArgumentError(f"count is {count!r}; allowed: 0 to 1024")
    _pool.wanted = count


class _Call:
    """Checked views of q, k, v and the plan for them."""

    def __init__(self, q: Any, k: Any, v: Any, select: SelectConfig | None, sm_scale: float | None,
                 softcap: float, causal: bool, layout: str, backend: str,
                 out: Any = None) -> None:
        _no_gradients(q, k, v)
        self.q = _tensor.view(q, "q", layout)
        self.k = _tensor.view(k, "k", layout)
        self.v = _tensor.view(v, "v", layout)
        self.result = _tensor.empty_like(self.q, layout) if out is None else out
        self.out = _tensor.view(self.result, "out", layout)
        if self.out.read_only:
            raise ArgumentError("out is read-only; pass an array that may be written")
        device = self.q.device if self.q.cuda else None  # host memory is host memory
        for other, name in ((self.k, "k"), (self.v, "v"), (self.out, "out")):
            if (other.device if other.cuda else None) != device:
                raise ArgumentError(f"{name} is on {other.device or 'cpu'}, q on "
                                    f"{self.q.device or 'cpu'}; move them to one device")
        if select is not None and not isinstance(select, SelectConfig):
            raise ArgumentError(f"select is a {type(select).__name__}; allowed: a SelectConfig or "
                                "None (dense)")
        if sm_scale is not None and not sm_scale > 0:
            raise ArgumentError(f"sm_scale is {sm_scale}; allowed: > 0, or None for "
                                "1/sqrt(head_dim)")
        batch, seqlen_q, q_heads, dim = self.q.c.shape
        _, seqlen_kv, kv_heads, _ = self.k.c.shape
        shape = (batch, seqlen_q, seqlen_kv, q_heads, kv_heads, dim, self.q.c.dtype,
                 self.k.c.dtype, self.out.c.dtype, sm_scale or 0.0, softcap, int(causal))
        self.threads = 1 if self.q.cuda else _pool.num_threads()
        self.backend = self._backend(backend)
        select = select or _dense()
        if self.q.cuda:
            with self._device():
                self.plan = _plan(shape, select, self.backend, self.threads, device)
        else:
            self.plan = _plan(shape, select, self.backend, self.threads, None)
        self.inputs = _abi.new(_abi.Inputs)
        self.inputs.q = C.addressof(self.q.c)
        self.inputs.k = C.addressof(self.k.c)
        self.inputs.v = C.addressof(self.v.c)

    def set_sinks(self, sink_logits: Any) -> Any:
        """Gives the sinks to the inputs; returns what must stay alive."""
        if sink_logits is None:
            return None
        sinks, self.inputs.sink_logits = _tensor.floats(sink_logits, self.q, "sink_logits",
                                                        self.q.c.shape[2])
        return sinks

    def _backend(self, name: str) -> int:
        if name not in _abi.BACKENDS:
            raise ArgumentError(f"backend is {name!r}; allowed: {', '.join(_abi.BACKENDS)}")
        if name == "auto":
            name = "cuda" if self.q.cuda else "cpu"
        if (name == "cuda") != self.q.cuda:
            raise ArgumentError(f"backend is {name}, the tensors are on {self.q.device or 'cpu'}; "
                                "move them, or use backend='auto'")
        return _abi.BACKENDS.index(name)

    def _device(self) -> Any:
        return sys.modules["torch"].cuda.device(self.q.device)

    def run(self, function: str, target: Any, report: bool, wait: bool = True) -> Report | None:
        """Calls run or select_tokens, writing to `target`."""
        filled = _abi.new(_abi.Report) if report else None
        if self.q.cuda:
            self._run_cuda(function, target, filled, wait)
        else:
            self._run_cpu(function, target, filled)
        return self._report(filled) if filled else None

    def _run_cuda(self, function: str, target: Any, report: Any, wait: bool) -> None:
        torch = sys.modules["torch"]
        with self._device():
            size = self.plan.info.workspace_bytes
            space = torch.empty(size, dtype=torch.uint8, device=self.q.device)
            stream = torch.cuda.current_stream().cuda_stream
            options = _abi.new(_abi.RunOptions)
            options.stream = stream
            if report:
                options.report = C.addressof(report)
            _abi.call(function, self.plan.handle, C.byref(self.inputs), C.byref(target),
                      space.data_ptr(), size, C.byref(options))
            if report and wait:
                _abi.call("read_report", self.plan.handle, space.data_ptr(), size, stream,
                          C.byref(report))

    def _run_cpu(self, function: str, target: Any, report: Any) -> None:
        size = self.plan.info.workspace_bytes
        space = getattr(_local, "space", None)
        if space is None or len(space) < size:
            _local.space = None  # freed before the larger one is allocated
            space = _local.space = (C.c_char * size)()
        options = _abi.new(_abi.RunOptions)
        if report:
            options.report = C.addressof(report)
        if self.threads == 1:
            _abi.call(function, self.plan.handle, C.byref(self.inputs), C.byref(target), space,
                      size, C.byref(options))
            return
        with _pool.lock:
            options.executor = C.addressof(_pool.get(self.threads))
            _abi.call(function, self.plan.handle, C.byref(self.inputs), C.byref(target), space,
                      size, C.byref(options))

    def _report(self, c: Any) -> Report:
        lib = _abi.library()
        stages = {lib.tokensieve_stage_name(i).decode(): c.stage_ns[i]
                  for i in range(_abi.NUM_STAGES)}
        return Report(_PATHS[c.path], reason_text(c.reason), c.keep_count, c.keep_ratio,
                      c.attention_pairs, stages, _abi.BACKENDS[self.backend],
                      lib.tokensieve_isa_name(c.isa).decode())


def reason_text(reason: int) -> str:
    return _abi.library().tokensieve_dense_reason_text(reason).decode() if reason else ""


def _no_gradients(*tensors: Any) -> None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.is_grad_enabled():
        return
    if any(getattr(x, "requires_grad", False) for x in tensors):
        raise ArgumentError("q, k or v requires grad, and tokensieve computes forward only; call "
                            "it under torch.no_grad(), or detach() them")


def attention(q: Any, k: Any, v: Any, *, select: SelectConfig | None = None,
              sm_scale: float | None = None, softcap: float = 0.0, sink_logits: Any = None,
              causal: bool = True, layout: str = "bshd", backend: str = "auto",
              return_report: bool = False, out: Any = None) -> Any:
    """Attention over all tokens, or over those that `select` keeps.

    Queries are the last ``seqlen_q`` tokens of the keys (causality is aligned bottom right), and
    positions (RoPE) are applied before. Tensors are torch tensors (host or CUDA; the call is
    enqueued on torch's current stream), NumPy arrays, or host objects with ``__dlpack__`` or
    ``__array_interface__``; float32, float16 or bfloat16, any strides with a contiguous last
    dimension. Nothing is copied. Forward only.

    Parameters
    ----------
    q : tensor [batch, seqlen_q, num_q_heads, head_dim]
        With ``layout="bhsd"`` all tensors are [batch, heads, seq, head_dim].
    k, v : tensor [batch, seqlen_kv, num_kv_heads, head_dim]
        num_kv_heads divides num_q_heads.
    select : SelectConfig, optional
        None: dense.
    sm_scale : float, optional
        Logit factor; None: 1 / sqrt(head_dim).
    softcap : float
        Logits become softcap * tanh(logit / softcap); 0: off.
    sink_logits : array [num_q_heads], optional
        Extra softmax mass of each head.
    causal : bool
        False: every query sees every key; always dense.
    layout : {"bshd", "bhsd"}
        The order of the dimensions.
    backend : {"auto", "cpu", "cuda", "ref"}
        "auto": where the tensors are. "ref" is the slow double-precision oracle.
    return_report : bool
        Also return what was done; on CUDA this waits for the device.
    out : tensor like q, optional
        Receives the result.

    Returns
    -------
    out : tensor like q
        `out` if given; else a torch tensor if q is one, else a NumPy array (float32 if q is
        bfloat16).
    report : Report
        Only with `return_report`.

    Raises
    ------
    ArgumentError
        A shape, type, device or value is wrong (also a ValueError).
    UnsupportedError
        Nothing in this build or on this device can do it (also a NotImplementedError).
    """
    result, report = attend(q, k, v, select, sm_scale, softcap, sink_logits, causal, layout,
                            backend, out, return_report, True)
    return (result, report) if return_report else result


def attend(q: Any, k: Any, v: Any, select: SelectConfig | None, sm_scale: float | None,
           softcap: float, sink_logits: Any, causal: bool, layout: str, backend: str, out: Any,
           report: bool, wait: bool) -> tuple[Any, Report | None]:
    """attention(); without `wait`, a report on CUDA says only what is known at once."""
    call = _Call(q, k, v, select, sm_scale, softcap, causal, layout, backend, out)
    sinks = call.set_sinks(sink_logits)  # alive until the call was made
    outputs = _abi.new(_abi.Outputs)
    outputs.out = C.addressof(call.out.c)
    measured = _context.reports.get()
    done = call.run("run", outputs, report, wait or measured is not None)
    del sinks
    if measured is not None and done is not None:
        measured.append(done)
    return call.result, done


def select_tokens(q: Any, k: Any, *, select: SelectConfig, sm_scale: float | None = None,
                  softcap: float = 0.0, sink_logits: Any = None, layout: str = "bshd",
                  backend: str = "auto") -> KeptTokens:
    """The tokens that :func:`attention` would keep; parameters and errors are the same.

    Returns
    -------
    KeptTokens
        Arrays of torch if q is a torch tensor, else of NumPy. On CUDA they are written on torch's
        current stream.
    """
    call = _Call(q, k, k, select, sm_scale, softcap, True, layout, backend, q)
    info = call.plan.info
    batch = call.q.c.shape[0]
    sparse = _PATHS[info.path] == "sparse"
    indices, indices_address = _tensor.integers(
        call.q, (batch, info.num_sets, info.keep_capacity if sparse else 0), 32)
    count, count_address = _tensor.integers(call.q, (batch,), 64)
    if not sparse:
        count[:] = call.k.c.shape[1]
        return KeptTokens(indices, count, reason_text(info.reason))
    sinks = call.set_sinks(sink_logits)  # alive until the call was made
    keep = _abi.new(_abi.KeepSet)
    keep.indices, keep.capacity, keep.count = indices_address, info.keep_capacity, count_address
    call.run("select_tokens", keep, False)
    del sinks
    return KeptTokens(indices, count, "")


def info() -> dict[str, Any]:
    """What this build and this machine can do.

    Returns
    -------
    dict
        version, library (path), backends (name to "available", "compiled" or "not in this
        build"), isas (best first), num_threads.
    """
    lib = _abi.library()
    isas = (_abi.I32 * 16)()
    count = lib.tokensieve_supported_isas(isas, 16)
    state = {}
    for i, name in enumerate(_abi.BACKENDS[1:], start=1):
        state[name] = ("available" if lib.tokensieve_backend_available(i) else
                       "compiled" if lib.tokensieve_backend_compiled(i) else "not in this build")
    return {"version": lib.tokensieve_version().decode(), "library": str(_abi.library_path()),
            "backends": state,
            "isas": [lib.tokensieve_isa_name(isas[i]).decode() for i in range(min(count, 16))],
            "num_threads": _pool.num_threads()}
