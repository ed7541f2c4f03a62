"""attention and select_tokens: plan once per shape, run on the tensors' device."""

from __future__ import annotations

import contextlib
import ctypes as C
import dataclasses
import functools
import os
import sys
import threading
from typing import Any, Literal, overload

from tokensieve import _abi, _context, _tensor
from tokensieve._abi import ArgumentError, UnsupportedError
from tokensieve._config import SelectConfig
from tokensieve._ranks import Gather, gathering

_PATHS = ("dense", "sparse")
_CUDA = _abi.BACKENDS.index("cuda")
Key = tuple[Any, ...]  # _tensor.View.key
FORWARD_ONLY = ("q, k or v requires grad, and tokensieve computes forward only; call it under "
                "torch.no_grad(), or detach() them")


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
    work : float
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
    work: float
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
    reason: str = ""


@functools.lru_cache(maxsize=1)
def _dense() -> SelectConfig:
    return SelectConfig(enabled=False)


class _Plan:
    """A C plan, freed with this object."""

    def __init__(self, shape: Any, select: SelectConfig, backend: int, threads: int,
                 ranks: tuple[int, int]) -> None:
        options = _abi.new(_abi.Options)
        options.backend, options.num_threads = backend, threads
        options.num_ranks, options.rank = ranks
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
          ranks: tuple[int, int], device: Any) -> _Plan:
    c = _abi.new(_abi.Shape)
    (c.batch, c.seqlen_q, c.seqlen_kv, c.num_q_heads, c.num_kv_heads, c.head_dim, c.dtype,
     c.kv_dtype, c.out_dtype, c.sm_scale, c.softcap, c.causal) = shape
    return _Plan(c, select, backend, threads, ranks)


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

    Raises
    ------
    ArgumentError
        count is not an integer from 0 to 1024.
    """
    if not isinstance(count, int) or not 0 <= count <= 1024:
        raise ArgumentError(f"count is {count!r}; allowed: 0 to 1024")
    _pool.wanted = count


class _Frame:
    """The C structs of a call, for all calls with such tensors and settings: making them takes
    several times as long as a call on tiny tensors. One call at a time uses a frame."""

    def __init__(self, q: Key, k: Key, v: Key, out: Key, select: SelectConfig | None,
                 sm_scale: float | None, softcap: float, causal: bool, layout: str, backend: str,
                 threads: int, ranks: tuple[int, int] = (1, 0)) -> None:
        keys = {"q": q, "k": k, "v": v, "out": out}
        self.device = _one_device(keys)
        self.cuda = self.device is not None
        tensors = [_tensor.describe(key, name, layout) for name, key in keys.items()]
        self.q, self.k, self.v, self.out = tensors
        if out[4]:
            raise ArgumentError("out is read-only; pass an array that may be written")
        if sm_scale is not None and not sm_scale > 0:
            raise ArgumentError(f"sm_scale is {sm_scale}; allowed: > 0, or None for "
                                "1/sqrt(head_dim)")
        batch, seqlen_q, q_heads, dim = self.q.shape
        _, seqlen_kv, kv_heads, _ = self.k.shape
        self.backend = self._backend(backend)
        self.threads = 1 if self.cuda else threads
        with self._on_device():
            self.plan = _plan((batch, seqlen_q, seqlen_kv, q_heads, kv_heads, dim, self.q.dtype,
                               self.k.dtype, self.out.dtype, sm_scale or 0.0, softcap,
                               int(causal)), select or _dense(), self.backend, self.threads,
                              ranks, self.device)
        self.inputs = _abi.new(_abi.Inputs)
        self.inputs.q, self.inputs.k, self.inputs.v = map(C.addressof, tensors[:3])
        self.outputs = _abi.new(_abi.Outputs)
        self.outputs.out = C.addressof(self.out)
        self.options = _abi.new(_abi.RunOptions)
        self.status = _abi.new(_abi.Status)
        self.workspace_bytes = self.plan.info.workspace_bytes
        self.inputs_ref, self.outputs_ref, self.options_ref, self.status_ref = map(
            C.byref, (self.inputs, self.outputs, self.options, self.status))

    def _backend(self, name: str) -> int:
        if name not in _abi.BACKENDS:
            raise ArgumentError(f"backend is {name!r}; allowed: {', '.join(_abi.BACKENDS)}")
        if name == "auto":
            name = "cuda" if self.cuda else "cpu"
        if (name == "cuda") != self.cuda:
            raise ArgumentError(f"backend is {name}, the tensors are on {self.device or 'cpu'}; "
                                "move them, or use backend='auto'")
        if self.cuda and not _abi.library().tokensieve_backend_compiled(_CUDA):
            raise UnsupportedError(
                f"the tensors are on {self.device}, but {_abi.library_path()} was built without "
                "CUDA; reinstall it where nvcc is (TOKENSIEVE_CUDA=ON pip install .), or move the "
                "tensors to the CPU")
        return _abi.BACKENDS.index(name)

    def _on_device(self) -> Any:
        return (sys.modules["torch"].cuda.device(self.device) if self.cuda
                else contextlib.nullcontext())

    def run(self, function: str, target: Any, sinks: int | None, report: bool, wait: bool,
            gather: Gather | None = None) -> Report | None:
        """Calls run or select_tokens, writing to `target`; the tensors' data is already set."""
        self.inputs.sink_logits = sinks
        self.options.all_gather = gather.address if gather else None
        filled = _abi.new(_abi.Report) if report else None
        self.options.report = C.addressof(filled) if filled else None
        try:
            self._run(function, target, filled, wait, gather)
        except _abi.Error as error:
            raise error from (gather.problem if gather else None)
        return _report(filled, self.backend) if filled else None

    def _run(self, function: str, target: Any, filled: Any, wait: bool,
             gather: Gather | None) -> None:
        if self.cuda:
            self._run_cuda(function, target, filled if wait else None, gather)
        elif self.threads == 1:
            self._call(function, target, *_workspace(self.workspace_bytes))
        else:
            with _pool.lock:
                self.options.executor = C.addressof(_pool.get(self.threads))
                self._call(function, target, *_workspace(self.workspace_bytes))

    def _run_cuda(self, function: str, target: Any, report: Any, gather: Gather | None) -> None:
        torch = sys.modules["torch"]
        with self._on_device():
            size = self.workspace_bytes
            space = torch.empty(size, dtype=torch.uint8, device=self.device)
            self.options.stream = stream = torch.cuda.current_stream().cuda_stream
            if gather:
                gather.workspace = space
            self._call(function, target, space.data_ptr(), size)
            if report:
                _abi.call("read_report", self.plan.handle, space.data_ptr(), size, stream,
                          C.byref(report))

    def _call(self, function: str, target: Any, space: Any, size: int) -> None:
        code = _abi.function(function)(self.plan.handle, self.inputs_ref, target, space,
                                       size, self.options_ref, self.status_ref)
        if code != 0:
            raise _abi.error(code, self.status.message.decode(errors="replace"))


def _one_device(keys: dict[str, Key]) -> Any:
    """The torch.device of CUDA tensors; None for host memory, whoever owns it."""
    devices = {name: key[1] if key[1] is not None and key[1].type == "cuda" else None
               for name, key in keys.items()}
    for name, device in devices.items():
        if device != devices["q"]:
            raise ArgumentError(f"{name} is on {device or 'cpu'}, q on {devices['q'] or 'cpu'}; "
                                "move them to one device")
    return devices["q"]


def _workspace(size: int) -> tuple[Any, int]:
    """This thread's memory for CPU calls."""
    space = getattr(_local, "space", None)
    if space is None or len(space) < size:
        _local.space = None  # freed before the larger one is allocated
        space = _local.space = (C.c_char * size)()
    return space, size


# Frames that no call is using, by what they were made from. A call takes its frame out and puts it
# back, so that threads never share one.
_frames: dict[tuple[Any, ...], _Frame] = {}
_MAX_FRAMES = 256


def _take(settings: tuple[Any, ...]) -> _Frame:
    return _frames.pop(settings, None) or _Frame(*settings)


def _put(settings: tuple[Any, ...], frame: _Frame) -> None:
    if len(_frames) >= _MAX_FRAMES:
        _frames.clear()
    _frames[settings] = frame


def _settings(q: Key, k: Key, v: Key, out: Key, select: SelectConfig | None,
              sm_scale: float | None, softcap: float, causal: bool, layout: str, backend: str,
              group: Any) -> tuple[Any, ...]:
    """_Frame's arguments, hashable."""
    if select is not None and not isinstance(select, SelectConfig):
        raise ArgumentError(f"select is a {type(select).__name__}; allowed: a SelectConfig or None "
                            "(dense)")
    return (q, k, v, out, select, None if sm_scale is None else float(sm_scale), float(softcap),
            causal, layout, backend, _pool.num_threads(),
            (1, 0) if group is None else (group.size(), group.rank()))


@functools.lru_cache(maxsize=1)
def _stage_names() -> tuple[str, ...]:
    lib = _abi.library()
    return tuple(lib.tokensieve_stage_name(i).decode() for i in range(_abi.NUM_STAGES))


@functools.lru_cache(maxsize=None)
def _isa_name(isa: int) -> str:
    return _abi.library().tokensieve_isa_name(isa).decode()


def _report(c: Any, backend: int) -> Report:
    return Report(_PATHS[c.path], reason_text(c.reason), c.keep_count, c.keep_ratio,
                  c.work, dict(zip(_stage_names(), c.stage_ns)),
                  _abi.BACKENDS[backend], _isa_name(c.isa))


def reason_text(reason: int) -> str:
    return _abi.library().tokensieve_dense_reason_text(reason).decode() if reason else ""


def _no_gradients(*tensors: Any) -> None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.is_grad_enabled():
        return
    for x in tensors:
        if getattr(x, "requires_grad", False):
            raise ArgumentError(FORWARD_ONLY)


@overload
def attention(q: Any, k: Any, v: Any, *, select: SelectConfig | None = ...,
              sm_scale: float | None = ..., softcap: float = ..., sink_logits: Any = ...,
              causal: bool = ..., layout: str = ..., backend: str = ...,
              return_report: Literal[False] = ..., out: Any = ..., keep: KeptTokens | None = ...,
              group: Any = ...) -> Any: ...


@overload
def attention(q: Any, k: Any, v: Any, *, select: SelectConfig | None = ...,
              sm_scale: float | None = ..., softcap: float = ..., sink_logits: Any = ...,
              causal: bool = ..., layout: str = ..., backend: str = ...,
              return_report: Literal[True], out: Any = ..., keep: KeptTokens | None = ...,
              group: Any = ...) -> tuple[Any, Report]: ...


def attention(q: Any, k: Any, v: Any, *, select: SelectConfig | None = None,
              sm_scale: float | None = None, softcap: float = 0.0, sink_logits: Any = None,
              causal: bool = True, layout: str = "bshd", backend: str = "auto",
              return_report: bool = False, out: Any = None, keep: KeptTokens | None = None,
              group: Any = None) -> Any:
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
    keep : KeptTokens, optional
        Keeps these tokens instead of choosing; of `select` only obs_window, share, fill, queries,
        local_window and sinks count. Every set ends with the last obs_window tokens (queries "all":
        with the whole chunk); a count of seqlen_kv runs a sequence dense. On CUDA contents are not
        checked.
    group : torch.distributed.ProcessGroup, optional
        Tensor parallel: the ranks that the layer's heads are split over, in the order of the heads;
        q, k and v hold this rank's. Tokens are chosen from all ranks' scores, as if one call had
        all heads. All ranks must make the same calls.

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
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():
        return _traced(q, k, v, select, sm_scale, softcap, sink_logits, causal, layout, backend,
                       return_report or not (out is keep is group is None))
    result, report = attend(q, k, v, select, sm_scale, softcap, sink_logits, causal, layout,
                            backend, out, return_report, True, keep, group)
    return (result, report) if return_report else result


def _traced(q: Any, k: Any, v: Any, select: SelectConfig | None, sm_scale: float | None,
            softcap: float, sink_logits: Any, causal: bool, layout: str, backend: str,
            more: bool) -> Any:
    """attention() inside torch.compile."""
    from tokensieve import ops
    if more:
        raise ArgumentError("return_report, out, keep and group are not possible inside "
                            "torch.compile")
    return ops.attention(q, k, v, sink_logits, "" if select is None else select.text, sm_scale,
                         softcap, causal, layout, backend)


def attend(q: Any, k: Any, v: Any, select: SelectConfig | None, sm_scale: float | None,
           softcap: float, sink_logits: Any, causal: bool, layout: str, backend: str, out: Any,
           report: bool, wait: bool, keep: KeptTokens | None = None, group: Any = None
           ) -> tuple[Any, Any]:
    """attention() and the Report, or None without `report`; without `wait`, a report on CUDA says
    only what is known at once."""
    _no_gradients(q, k, v)
    q, k, v = _tensor.view(q, "q"), _tensor.view(k, "k"), _tensor.view(v, "v")
    written = _tensor.empty_like(q) if out is None else _tensor.view(out, "out")
    if isinstance(keep, KeptTokens) and keep.reason:  # no sets: dense
        select = keep = None
    given = _given(keep, select, q, k, layout)
    if given is not None:
        select = given.select
    settings = _settings(q.key, k.key, v.key, written.key, select, sm_scale, softcap, causal,
                         layout, backend, group)
    frame = _take(settings)
    frame.q.data, frame.k.data, frame.v.data, frame.out.data = q.data, k.data, v.data, written.data
    sinks, address = _sinks(sink_logits, q, frame)  # alive until the call was made
    if given is not None:
        given.check(frame)
    frame.inputs.keep = C.addressof(given.c) if given else None
    measured = _context.reports.get()
    done = frame.run("run", frame.outputs_ref, address, report, wait or measured is not None,
                     gathering(group))
    _put(settings, frame)
    del sinks
    if measured is not None and done is not None:
        measured.append(done)
    return written.owner if out is None else out, done


def _sinks(sink_logits: Any, q: _tensor.View, frame: _Frame) -> tuple[Any, int | None]:
    """The sinks beside q, and their address."""
    if sink_logits is None:
        return None, None
    return _tensor.floats(sink_logits, q, "sink_logits", frame.q.shape[2])


class _Given:
    """The sets of `keep` beside q, as the C struct that points to them."""

    def __init__(self, keep: KeptTokens, select: SelectConfig, q: _tensor.View, k: _tensor.View,
                 layout: str) -> None:
        self.indices, address = _tensor.as_integers(keep.indices, q, "keep.indices", 3, 32)
        self.count, count_address = _tensor.as_integers(keep.count, q, "keep.count", 1, 64)
        self.c = _abi.new(_abi.KeepSet)
        self.c.indices, self.c.capacity, self.c.count = (address, self.indices.shape[2],
                                                         count_address)
        # The lengths; tensors of fewer dimensions are refused later.
        queries, keys = (shape[1 if layout == "bshd" else 2] if len(shape) == 4 else 0
                         for shape in (q.key[2], k.key[2]))
        after = queries if select.queries == "all" else select.obs_window
        self.select = _takes_sets(select, max(1, min(self.c.capacity - after, keys - after - 1)))

    def check(self, frame: _Frame) -> None:
        batch, sets = frame.q.shape[0], frame.plan.info.num_sets
        shape, counts = tuple(self.indices.shape), tuple(self.count.shape)
        if shape[:2] != (batch, sets) or counts != (batch,):
            raise ArgumentError(f"keep has indices {shape} and count {counts}; allowed: [{batch}, "
                                f"{sets}, capacity] (batch, sets of the plan) and [{batch}]")


def _given(keep: KeptTokens | None, select: SelectConfig | None, q: _tensor.View,
           k: _tensor.View, layout: str) -> _Given | None:
    if keep is None:
        return None
    if not isinstance(keep, KeptTokens):
        raise ArgumentError(f"keep is a {type(keep).__name__}; allowed: a KeptTokens")
    if select is None:
        raise ArgumentError("keep was given without select, whose fill, share and obs_window say "
                            "what to do with the tokens; pass a SelectConfig")
    return _Given(keep, select, q, k, layout)


@functools.lru_cache(maxsize=64)
def _takes_sets(select: SelectConfig, most: int) -> SelectConfig:
    """The settings of a plan that takes given sets, whatever budget and cost model would say."""
    return dataclasses.replace(select, enabled=True, budget="keep_count", keep_count=most,
                               min_keep=0, protect_first=0, min_drop=0.0, dense_policy="never")


def select_tokens(q: Any, k: Any, *, select: SelectConfig, sm_scale: float | None = None,
                  softcap: float = 0.0, sink_logits: Any = None, layout: str = "bshd",
                  backend: str = "auto", group: Any = None) -> KeptTokens:
    """The tokens that :func:`attention` would keep.

    Parameters
    ----------
    q : tensor [batch, seqlen_q, num_q_heads, head_dim]
        Kinds of tensors, and the other parameters, are those of :func:`attention`.
    k : tensor [batch, seqlen_kv, num_kv_heads, head_dim]
    select : SelectConfig
    sm_scale, softcap, sink_logits, layout, backend, group : optional
        They change the scores by which tokens are kept as they change attention's logits.

    Returns
    -------
    KeptTokens
        Arrays of torch if q is a torch tensor, else of NumPy. On CUDA they are written on torch's
        current stream. Inside torch.compile the call breaks the graph.

    Raises
    ------
    ArgumentError
        A shape, type, device or value is wrong (also a ValueError).
    UnsupportedError
        Nothing in this build or on this device can do it (also a NotImplementedError).
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():
        return torch.compiler.disable(select_tokens)(
            q, k, select=select, sm_scale=sm_scale, softcap=softcap, sink_logits=sink_logits,
            layout=layout, backend=backend, group=group)
    _no_gradients(q, k)
    q, k = _tensor.view(q, "q"), _tensor.view(k, "k")
    settings = _settings(q.key, k.key, k.key, (*q.key[:4], False), select, sm_scale, softcap, True,
                         layout, backend, group)
    frame = _take(settings)
    info = frame.plan.info
    batch = frame.q.shape[0]
    sparse = _PATHS[info.path] == "sparse"
    indices, indices_address = _tensor.integers(
        q, (batch, info.num_sets, info.keep_capacity if sparse else 0), 32)
    count, count_address = _tensor.integers(q, (batch,), 64)
    if not sparse:
        count[:] = frame.k.shape[1]
        return KeptTokens(indices, count, reason_text(info.reason))
    frame.q.data, frame.k.data, frame.v.data = q.data, k.data, k.data
    sinks, address = _sinks(sink_logits, q, frame)  # alive until the call was made
    keep = _abi.new(_abi.KeepSet)
    keep.indices, keep.capacity, keep.count = indices_address, info.keep_capacity, count_address
    frame.inputs.keep = None
    frame.run("select_tokens", C.byref(keep), address, False, False, gathering(group))
    _put(settings, frame)
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
