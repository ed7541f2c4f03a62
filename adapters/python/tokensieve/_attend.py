"""One call of the library: attend() is what attention(), the operators and the adapters share."""

from __future__ import annotations

import ctypes as C
import enum
import sys
from typing import Any, NamedTuple

from tokensieve import _abi, _context, _tensor
from tokensieve._abi import ArgumentError
from tokensieve._block_inputs import BlockInputs, given_settings
from tokensieve._block_mask import BlockMask
from tokensieve._call import Frame, Settings, take
from tokensieve._ranks import gathering
from tokensieve._results import KeptTokens, Report
from tokensieve._threads import pool

FORWARD_ONLY = ("q, k or v requires grad, and tokensieve computes forward only; call it under "
                "torch.no_grad(), or detach() them")


class Wanted(enum.Enum):
    """How much of a report a call returns."""

    NOTHING = 0
    AT_ONCE = 1  # on CUDA what is known without waiting
    ALL = 2


NOTHING, AT_ONCE, ALL = Wanted  # looking a member up takes longer than comparing it


class Extras(NamedTuple):
    """Arrays that a call may read beside q, k and v."""

    sink_logits: Any = None  # [num_q_heads]
    keep: KeptTokens | None = None
    kv_indices: Any = None  # [batch, seqlen_kv]
    cu_seqlens_q: Any = None  # [batch + 1], of packed settings, see `packed`
    cu_seqlens_kv: Any = None
    block_mask: BlockMask | None = None
    block_scores: Any = None  # [batch, masks, row_tiles, key_tiles]
    block_thresholds: Any = None  # [masks]
    block_sizes: Any = None  # [query heads, 2]


NONE = Extras()


def no_gradients(*tensors: Any) -> None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.is_grad_enabled():
        return
    for x in tensors:
        if getattr(x, "requires_grad", False):
            raise ArgumentError(FORWARD_ONLY)


class Arrays:
    """Extras as the library reads them: beside q, and alive until the call was made."""

    def __init__(self, extras: Extras, settings: Settings, q: _tensor.View) -> None:
        self.extras, self.q = extras, q
        self.keep: Any = None  # the C struct
        self.alive: list[Any] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        if extras.keep is not None:
            settings = self._add_keep(extras.keep, settings)
        self.kv_indices = self._integers("kv_indices", 2)
        if self.kv_indices is not None:
            tokens = self.shapes["kv_indices"][1]
            if tokens == 0:
                raise ArgumentError(f"kv_indices has shape {self.shapes['kv_indices']}; allowed: "
                                    "[batch, tokens] with at least one token")
            settings = settings.but(lengths=(0, 0, tokens))
        self.cu_seqlens_q = self._integers("cu_seqlens_q", 1)
        self.cu_seqlens_kv = self._integers("cu_seqlens_kv", 1)
        self.blocks = BlockInputs(extras.block_mask, extras.block_scores,
                                  extras.block_thresholds, extras.block_sizes)
        self.settings = settings

    def _integers(self, name: str, dimensions: int) -> int | None:
        """The address of an array of int32."""
        given = getattr(self.extras, name)
        if given is None:
            return None
        array, address = _tensor.as_integers(given, self.q, name, dimensions, 32)
        self.alive.append(array)
        self.shapes[name] = tuple(array.shape)
        return address

    def _add_keep(self, keep: Any, settings: Settings) -> Settings:
        if not isinstance(keep, KeptTokens):
            raise ArgumentError(f"keep is a {type(keep).__name__}; allowed: a KeptTokens")
        if keep.reason:  # no sets
            return settings.but(select=None)
        if settings.select is None:
            raise ArgumentError("keep was given without select, whose fill, share and obs_window "
                                "say what to do with the tokens; pass a SelectConfig")
        indices, address = _tensor.as_integers(keep.indices, self.q, "keep.indices", 3, 32)
        count, count_address = _tensor.as_integers(keep.count, self.q, "keep.count", 1, 64)
        self.keep = _abi.new(_abi.KeepSet)
        self.keep.indices, self.keep.capacity, self.keep.count = (address, indices.shape[2],
                                                                  count_address)
        self.alive += [indices, count, self.keep]
        self.shapes |= {"indices": tuple(indices.shape), "count": tuple(count.shape)}
        # A capacity of 0 says that nothing is given.
        return settings.but(keep_capacity=max(1, indices.shape[2]))

    def give_to(self, frame: Frame) -> None:
        """Sets the pointers of the frame's inputs."""
        inputs, batch = frame.inputs, frame.batch
        if self.keep is not None:
            sets, shapes = frame.plan.info.num_sets, self.shapes
            if shapes["indices"][:2] != (batch, sets) or shapes["count"] != (batch,):
                raise ArgumentError(
                    f"keep has indices {shapes['indices']} and count {shapes['count']}; allowed: "
                    f"[{batch}, {sets}, capacity] (batch, sets of the plan) and [{batch}]")
            inputs.keep = C.addressof(self.keep)
        if self.kv_indices is not None:
            if self.shapes["kv_indices"][0] != batch:
                raise ArgumentError(f"kv_indices has shape {self.shapes['kv_indices']}; allowed: "
                                    f"[{batch}, tokens] (batch of q, keys of a sequence)")
            inputs.kv_indices = self.kv_indices
        if self.cu_seqlens_q is not None:
            inputs.cu_seqlens_q, inputs.cu_seqlens_kv = self.cu_seqlens_q, self.cu_seqlens_kv
        if self.extras.sink_logits is not None:
            sinks, inputs.sink_logits = _tensor.floats(self.extras.sink_logits, self.q,
                                                       "sink_logits", (frame.q.shape[2],),
                                                       "one value for each query head")
            self.alive.append(sinks)
        self.blocks.give_to(frame, self.q, self.keep is not None)


def frame_of(views: tuple[_tensor.View, ...], settings: Settings, arrays: Arrays | None,
             group: Any) -> tuple[Frame, list[Frame]]:
    """A frame for q, k, v and out whose pointers are set, and where to append it after the call."""
    if arrays is not None:
        settings = arrays.settings
    if group is not None:
        settings = settings.but(ranks=(group.size(), group.rank()))
    q, k, v, out = views
    frame, free = take((q.key, k.key, v.key, out.key, settings, pool.num_threads()))
    frame.q.data, frame.k.data, frame.v.data, frame.out.data = q.data, k.data, v.data, out.data
    # The other arrays are part of the key, by settings: who takes such a frame sets them anew.
    frame.inputs.sink_logits = None
    if settings.blocks is not None:
        inputs = frame.inputs
        inputs.block_mask = inputs.block_scores = None
        inputs.block_thresholds = inputs.block_sizes = None
    if arrays is not None:
        arrays.give_to(frame)
    return frame, free


def attend(q: Any, k: Any, v: Any, settings: Settings, extras: Extras = NONE, *, out: Any = None,
           group: Any = None, report: Wanted = NOTHING) -> tuple[Any, Report | None]:
    """Attention, and what was done if that is wanted."""
    no_gradients(q, k, v)
    q, k, v = _tensor.view(q, "q"), _tensor.view(k, "k"), _tensor.view(v, "v")
    written = _tensor.empty_like(q) if out is None else _tensor.view(out, "out")
    if extras.block_mask is not None and settings.blocks is None:
        settings = given_settings(settings, extras.block_mask, q, k)
    arrays = None if extras is NONE else Arrays(extras, settings, q)
    frame, free = frame_of((q, k, v, written), settings, arrays, group)
    measured = _context.reports.get()
    done = frame.run("run", frame.outputs_ref, gathering(group), report is not NOTHING,
                     report is ALL or measured is not None)
    free.append(frame)
    if measured is not None and done is not None:
        measured.append((done, _causal_pairs(q, k, settings)))
    return written.owner if out is None else out, done


def _causal_pairs(q: _tensor.View, k: _tensor.View, settings: Settings) -> int:
    batch = q.key[2][0]
    queries, keys = (x.key[2][2 if settings.layout == "bhsd" else 1] for x in (q, k))
    pairs: int = batch * (queries * keys - queries * (queries - 1) // 2)
    return pairs


def packed(q: Any, settings: Settings, extras: Extras, max_seqlen_q: int | None,
           max_seqlen_kv: int | None) -> tuple[Settings, Extras]:
    """Settings and arrays for packed sequences, whose longest are looked up unless given."""
    view = _tensor.view(q, "q")
    begins = [_tensor.as_integers(getattr(extras, name), view, name, 1, 32)[0]
              for name in ("cu_seqlens_q", "cu_seqlens_kv")]
    sizes = [len(array) for array in begins]
    if sizes[0] != sizes[1] or sizes[0] < 2:
        raise ArgumentError(f"cu_seqlens_q and cu_seqlens_kv have {sizes[0]} and {sizes[1]} "
                            "entries; allowed: the same number, sequences + 1, at least 2")
    longest = []
    for name, given, array in (("max_seqlen_q", max_seqlen_q, begins[0]),
                               ("max_seqlen_kv", max_seqlen_kv, begins[1])):
        if given is not None and (not hasattr(given, "__index__") or given < 1):
            raise ArgumentError(f"{name} is {given!r}; allowed: an integer from 1, or None to look "
                                "it up")
        longest.append(max(1, int((array[1:] - array[:-1]).max() if given is None else given)))
    return (settings.but(packed=True, lengths=(sizes[0] - 1, *longest)),
            extras._replace(cu_seqlens_q=begins[0], cu_seqlens_kv=begins[1]))
