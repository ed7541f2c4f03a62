"""A call's settings, and what is kept for the next one like it: its plan and its C structs."""

from __future__ import annotations

import contextlib
import ctypes as C
import dataclasses
import functools
import sys
from typing import Any, ClassVar

from tokensieve import _abi, _tensor, _threads
from tokensieve._abi import ArgumentError, UnsupportedError
from tokensieve._blocks import BlockConfig
from tokensieve._ranks import Gather
from tokensieve._results import Report, report_of
from tokensieve._select import SelectConfig

_CUDA = _abi.BACKENDS.index("cuda")
Key = tuple[Any, ...]  # _tensor.View.key


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a call computes: with the descriptions of its tensors the key of plans and frames."""

    select: SelectConfig | None = None  # None: dense
    sm_scale: float | None = None
    softcap: float = 0.0
    causal: bool = True
    layout: str = "bshd"
    backend: str = "auto"
    packed: bool = False  # tensors are [tokens of all sequences, heads, dim]
    lengths: tuple[int, int, int] = (0, 0, 0)  # batch, seqlen_q, seqlen_kv; 0: the tensors say it
    keep_capacity: int = 0  # of the sets that the caller gives; 0: the call chooses
    ranks: tuple[int, int] = (1, 0)  # how many, and which one this is
    blocks: BlockConfig | None = None
    products: str = "auto"
    _hash: ClassVar[int]

    def __post_init__(self) -> None:
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        object.__setattr__(self, "_hash", hash(tuple(values)))

    def __hash__(self) -> int:
        return self._hash

    @staticmethod
    def of(select: Any, sm_scale: Any = None, softcap: Any = 0.0, causal: bool = True,
           layout: str = "bshd", backend: str = "auto", blocks: Any = None,
           products: str = "auto") -> Settings:
        """Those of a caller. Equal ones are one object, so that looking them up costs little."""
        if select is not None and not isinstance(select, SelectConfig):
            raise ArgumentError(f"select is a {type(select).__name__}; allowed: a SelectConfig or "
                                "None (dense)")
        if blocks is not None and not isinstance(blocks, BlockConfig):
            raise ArgumentError(f"blocks is a {type(blocks).__name__}; allowed: a BlockConfig or "
                                "None (every tile)")
        if products not in _abi.PRODUCTS:
            raise ArgumentError(f"products is {products!r}; allowed: {', '.join(_abi.PRODUCTS)}")
        return _settings(select, None if sm_scale is None else float(sm_scale), float(softcap),
                         causal, layout, backend, blocks=blocks, products=products)

    def but(self, **changes: Any) -> Settings:
        """A copy with other values, again one object."""
        return _changed(self, **changes)


_settings = functools.lru_cache(maxsize=256)(Settings)
_changed = functools.lru_cache(maxsize=256)(dataclasses.replace)


@functools.lru_cache(maxsize=1)
def _dense() -> SelectConfig:
    return SelectConfig(enabled=False)


class _Plan:
    """A C plan, freed with this object."""

    def __init__(self, shape: Any, select: SelectConfig, backend: int, threads: int,
                 ranks: tuple[int, int], blocks: BlockConfig | None = None,
                 products: str = "auto") -> None:
        options = _abi.new(_abi.Options)
        options.backend, options.num_threads = backend, threads
        options.products = _abi.PRODUCTS.index(products)
        options.num_ranks, options.rank = ranks
        self.free = _abi.library().tokensieve_plan_free  # modules go first when Python ends
        self.handle = _abi.PTR()
        _abi.call("make_plan_with_blocks", C.byref(shape), C.byref(select._to_c()),
                  None if blocks is None else C.byref(blocks._to_c()), C.byref(options),
                  C.byref(self.handle))
        self.info = _abi.new(_abi.PlanInfo)
        _abi.call("plan_get_info", self.handle, C.byref(self.info))

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.free(self.handle)


@functools.lru_cache(maxsize=128)
def _plan(shape: tuple[Any, ...], select: SelectConfig, backend: int, threads: int,
          ranks: tuple[int, int], device: Any, blocks: BlockConfig | None,
          products: str) -> _Plan:
    c = _abi.new(_abi.Shape)
    (c.batch, c.seqlen_q, c.seqlen_kv, c.num_q_heads, c.num_kv_heads, c.head_dim, c.dtype,
     c.kv_dtype, c.out_dtype, c.sm_scale, c.softcap, c.causal, c.packed) = shape
    return _Plan(c, select, backend, threads, ranks, blocks, products)


def products_here(products: str) -> str:
    """The instruction set that computes them for a float16 cache on the CPU, or why none does."""
    shape = (1, 1, 1, 1, 1, 64, 0, _abi.DTYPES.index("float16"), 0, 0.0, 0.0, 1, 0)
    cpu = _abi.BACKENDS.index("cpu")
    try:
        info = _plan(shape, _dense(), cpu, 1, (1, 0), None, None, products).info
    except UnsupportedError as problem:
        return str(problem)
    return (_abi.products_reason_text(info.products_reason) or
            str(_abi.library().tokensieve_isa_name(info.isa).decode()))


class Frame:
    """The C structs of a call, for all calls with such tensors and settings: making them takes
    several times as long as a call on tiny tensors. One call at a time uses a frame."""

    def __init__(self, q: Key, k: Key, v: Key, out: Key, settings: Settings, threads: int) -> None:
        self.settings = settings
        keys = {"q": q, "k": k, "v": v, "out": out}
        self.device = _one_device(keys)
        self.cuda = self.device is not None
        tensors = [_tensor.describe(key, name, settings.layout, settings.packed)
                   for name, key in keys.items()]
        self.q, self.k, self.v, self.out = tensors
        if out[4]:
            raise ArgumentError("out is read-only; pass an array that may be written")
        if settings.sm_scale is not None and not settings.sm_scale > 0:
            raise ArgumentError(f"sm_scale is {settings.sm_scale}; allowed: > 0, or None for "
                                "1/sqrt(head_dim)")
        self.backend = self._backend(settings.backend)
        self.threads = 1 if self.cuda else threads
        own = self.q.shape[0], self.q.shape[1], self.k.shape[1]
        self.batch, self.seqlen_q, self.seqlen_kv = (
            given or mine for given, mine in zip(settings.lengths, own))
        with self._on_device():
            self.plan = self._plan(settings)
        self.inputs = _abi.new(_abi.Inputs)
        self.inputs.q, self.inputs.k, self.inputs.v = map(C.addressof, tensors[:3])
        self.outputs = _abi.new(_abi.Outputs)
        self.outputs.out = C.addressof(self.out)
        self.options = _abi.new(_abi.RunOptions)
        self.status = _abi.new(_abi.Status)
        self.workspace_bytes = self.plan.info.workspace_bytes
        self.inputs_ref, self.outputs_ref, self.options_ref, self.status_ref = map(
            C.byref, (self.inputs, self.outputs, self.options, self.status))

    def _plan(self, settings: Settings) -> _Plan:
        shape = (self.batch, self.seqlen_q, self.seqlen_kv, self.q.shape[2], self.k.shape[2],
                 self.q.shape[3], self.q.dtype, self.k.dtype, self.out.dtype,
                 settings.sm_scale or 0.0, settings.softcap, int(settings.causal),
                 int(settings.packed))
        more = (self.backend, self.threads, settings.ranks, self.device, settings.blocks,
                settings.products)
        if not settings.keep_capacity:
            return _plan(shape, settings.select or _dense(), *more)
        # Whatever budget and cost model would say: as much of the prefix as the sets may hold.
        select = dataclasses.replace(settings.select or _dense(), enabled=True, keep_count=1,
                                     budget="keep_count", min_keep=0, protect_first=0,
                                     min_drop=0.0, dense_policy="never")
        prefix = _plan(shape, select, *more).info.prefix_len
        most = min(settings.keep_capacity - (self.seqlen_kv - prefix), prefix - 1)
        return _plan(shape, dataclasses.replace(select, keep_count=max(1, most)), *more)

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

    def run(self, function: str, target: Any, gather: Gather | None, report: bool,
            wait: bool) -> Report | None:
        """Calls run, select_tokens or estimate_blocks, writing to `target`; inputs are already
        set."""
        self.options.all_gather = gather.address if gather else None
        filled = _abi.new(_abi.Report) if report else None
        self.options.report = C.addressof(filled) if filled else None
        try:
            self._run(function, target, filled, wait, gather)
        except _abi.Error as error:
            raise error from (gather.problem if gather else None)
        return report_of(filled, self.backend) if filled else None

    def _run(self, function: str, target: Any, filled: Any, wait: bool,
             gather: Gather | None) -> None:
        if self.cuda:
            self._run_cuda(function, target, filled if wait else None, gather)
        elif self.threads == 1:
            self._call(function, target, *_threads.workspace(self.workspace_bytes))
        else:
            with _threads.pool.lock:
                self.options.executor = C.addressof(_threads.pool.get(self.threads))
                self._call(function, target, *_threads.workspace(self.workspace_bytes))

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


# Frames that no call is using, by what they were made from. A call takes one out and gives it back,
# so that threads never share one.
frames: dict[tuple[Any, ...], list[Frame]] = {}
_MAX_KEYS = 256


def take(key: tuple[Any, ...]) -> tuple[Frame, list[Frame]]:
    """A frame for these arguments of Frame, and where to append it after the call."""
    free = frames.get(key)
    try:
        if free:
            return free.pop(), free
    except IndexError:  # another thread was faster
        pass
    frame = Frame(*key)
    if len(frames) >= _MAX_KEYS:
        frames.clear()
    return frame, frames.setdefault(key, [])
