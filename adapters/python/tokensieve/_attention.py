"""The calls on tensors: attention, attention_varlen, select_tokens, estimate_blocks, info."""

from __future__ import annotations

import ctypes as C
import dataclasses
import sys
from typing import Any, Literal, overload

from tokensieve import _abi, _tensor, _threads
from tokensieve._abi import ArgumentError
from tokensieve._attend import (ALL, NONE, NOTHING, Arrays, Extras, attend, frame_of,
                                no_gradients, packed)
from tokensieve._block_inputs import host_bits, struct_of
from tokensieve._block_mask import BlockMask
from tokensieve._blocks import BlockConfig
from tokensieve._call import Settings, products_here
from tokensieve._ranks import gathering
from tokensieve._results import PATHS, KeptTokens, Report
from tokensieve._select import SelectConfig
from tokensieve._tiles import TILE, Tiles


def _compiling() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


@overload
def attention(q: Any, k: Any, v: Any, *, select: SelectConfig | None = ...,
              sm_scale: float | None = ..., softcap: float = ..., sink_logits: Any = ...,
              causal: bool = ..., layout: str = ..., backend: str = ...,
              return_report: Literal[False] = ..., out: Any = ..., keep: KeptTokens | None = ...,
              kv_indices: Any = ..., group: Any = ..., blocks: BlockConfig | None = ...,
              block_mask: BlockMask | None = ..., block_scores: Any = ...,
              block_thresholds: Any = ..., block_sizes: Any = ..., products: str = ...) -> Any: ...


@overload
def attention(q: Any, k: Any, v: Any, *, select: SelectConfig | None = ...,
              sm_scale: float | None = ..., softcap: float = ..., sink_logits: Any = ...,
              causal: bool = ..., layout: str = ..., backend: str = ...,
              return_report: Literal[True], out: Any = ..., keep: KeptTokens | None = ...,
              kv_indices: Any = ..., group: Any = ..., blocks: BlockConfig | None = ...,
              block_mask: BlockMask | None = ..., block_scores: Any = ...,
              block_thresholds: Any = ..., block_sizes: Any = ...,
              products: str = ...) -> tuple[Any, Report]: ...


def attention(q: Any, k: Any, v: Any, *, select: SelectConfig | None = None,
              sm_scale: float | None = None, softcap: float = 0.0, sink_logits: Any = None,
              causal: bool = True, layout: str = "bshd", backend: str = "auto",
              return_report: bool = False, out: Any = None, keep: KeptTokens | None = None,
              kv_indices: Any = None, group: Any = None, blocks: BlockConfig | None = None,
              block_mask: BlockMask | None = None, block_scores: Any = None,
              block_thresholds: Any = None, block_sizes: Any = None, products: str = "auto") -> Any:
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
    kv_indices : integer array [batch, seqlen_kv], optional
        A page table with pages of one token: token j of sequence b is row ``kv_indices[b, j]`` of
        k and v [batch, rows, num_kv_heads, head_dim], which hold at least seqlen_kv rows in any
        order. int32 beside q is read in place. CPU only.
    group : torch.distributed.ProcessGroup, optional
        Tensor parallel: the ranks that the layer's heads are split over, in the order of the heads;
        q, k and v hold this rank's. Tokens are chosen from all ranks' scores, as if one call had
        all heads. All ranks must make the same calls.
    blocks : BlockConfig, optional
        Which tiles of the (kept) tokens are computed; None: all, or those of `block_mask`.
    block_mask : BlockMask, optional
        Visits these tiles: over all tokens or, with `keep`, over the kept ones. Batch may be 1;
        masks are those of query heads, of kv heads, or one.
    block_scores : float array [batch, masks, row tiles, key tiles], optional
        With ``pattern="scores"``: tiles above the threshold are visited. Of kept tokens only with
        `keep`.
    block_thresholds : float array [masks], optional
        Each mask's own gamma, alpha or threshold.
    block_sizes : int array [query heads, 2], optional
        With ``pattern="vertical_slash"``: each head's own verticals, at most those of `blocks`, and
        slashes.
    products : {"auto", "exact", "split", "bf16"}
        How q k^T and p v are computed on the CPU (docs/products.md): in float32, or on matrix tiles
        of 16 bits. Where the machine or the tensors do not have them they are exact, and the report
        says why.

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
    if _compiling():
        if return_report or not (out is keep is group is None):
            raise ArgumentError("return_report, out, keep and group are not possible inside "
                                "torch.compile")
        if not block_mask is block_scores is block_thresholds is block_sizes is None:
            raise ArgumentError("block_mask, block_scores, block_thresholds and block_sizes are "
                                "not possible inside torch.compile")
        from tokensieve import ops
        return ops.attention(q, k, v, sink_logits, "" if select is None else select.text, sm_scale,
                             softcap, causal, layout, backend, kv_indices,
                             "" if blocks is None else blocks.text, products)
    plain = (sink_logits is keep is kv_indices is block_mask is block_scores is block_thresholds
             is block_sizes is None)
    result, report = attend(
        q, k, v, Settings.of(select, sm_scale, softcap, causal, layout, backend, blocks, products),
        NONE if plain else
        Extras(sink_logits, keep, kv_indices, block_mask=block_mask, block_scores=block_scores,
               block_thresholds=block_thresholds, block_sizes=block_sizes),
        out=out, group=group, report=ALL if return_report else NOTHING)
    return (result, report) if return_report else result


@overload
def attention_varlen(q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_kv: Any,
                     max_seqlen_q: int | None = ..., max_seqlen_kv: int | None = ..., *,
                     select: SelectConfig | None = ..., sm_scale: float | None = ...,
                     softcap: float = ..., sink_logits: Any = ..., causal: bool = ...,
                     backend: str = ..., return_report: Literal[False] = ..., out: Any = ...,
                     blocks: BlockConfig | None = ..., block_mask: BlockMask | None = ...,
                     products: str = ...) -> Any: ...


@overload
def attention_varlen(q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_kv: Any,
                     max_seqlen_q: int | None = ..., max_seqlen_kv: int | None = ..., *,
                     select: SelectConfig | None = ..., sm_scale: float | None = ...,
                     softcap: float = ..., sink_logits: Any = ..., causal: bool = ...,
                     backend: str = ..., return_report: Literal[True], out: Any = ...,
                     blocks: BlockConfig | None = ..., block_mask: BlockMask | None = ...,
                     products: str = ...) -> tuple[Any, Report]: ...


def attention_varlen(q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_kv: Any,
                     max_seqlen_q: int | None = None, max_seqlen_kv: int | None = None, *,
                     select: SelectConfig | None = None, sm_scale: float | None = None,
                     softcap: float = 0.0, sink_logits: Any = None, causal: bool = True,
                     backend: str = "auto", return_report: bool = False, out: Any = None,
                     blocks: BlockConfig | None = None, block_mask: BlockMask | None = None,
                     products: str = "auto") -> Any:
    """Attention over sequences of several lengths, packed one behind the other without padding.

    Each sequence is computed as :func:`attention` computes it alone: on the CPU to the bit. On CUDA
    whether sparse pays is decided for all of them, from the longest.

    Parameters
    ----------
    q : tensor [tokens of q, num_q_heads, head_dim]
        Kinds of tensors are those of :func:`attention`. The queries of a sequence are the last of
        its tokens.
    k, v : tensor [tokens of k, num_kv_heads, head_dim]
    cu_seqlens_q, cu_seqlens_kv : integer array [sequences + 1]
        Where each sequence begins in q, and in k and v: ascending from 0 to the number of tokens.
        int32 beside q is read in place. On CUDA contents are not checked.
    max_seqlen_q, max_seqlen_kv : int, optional
        At least the longest sequence's; None: looked up, on CUDA waiting for the device. Calls with
        equal ones share a plan.
    select, sm_scale, softcap, sink_logits, causal, backend, return_report, out, products : optional
        As those of :func:`attention`. A sequence with all its queries there is a whole prompt; with
        ``queries="all"`` fewer queries are a chunk.
    blocks, block_mask : optional
        As those of :func:`attention`; a mask has the tiles of the longest sequence, and the others
        use its upper left part.

    Returns
    -------
    out : tensor like q
        `out` if given; else a torch tensor if q is one, else a NumPy array (float32 if q is
        bfloat16).
    report : Report
        Only with `return_report`: of all sequences together.

    Raises
    ------
    ArgumentError
        A shape, type, device or value is wrong (also a ValueError).
    UnsupportedError
        Nothing in this build or on this device can do it (also a NotImplementedError).
    """
    if _compiling():
        if return_report or not out is block_mask is None:
            raise ArgumentError("return_report, out and block_mask are not possible inside "
                                "torch.compile")
        from tokensieve import ops
        return ops.attention_varlen(
            q, k, v, cu_seqlens_q, cu_seqlens_kv, max_seqlen_q, max_seqlen_kv, sink_logits,
            "" if select is None else select.text, sm_scale, softcap, causal, backend,
            "" if blocks is None else blocks.text, products)
    settings, extras = packed(
        q, Settings.of(select, sm_scale, softcap, causal, backend=backend, blocks=blocks,
                       products=products),
        Extras(sink_logits, cu_seqlens_q=cu_seqlens_q, cu_seqlens_kv=cu_seqlens_kv,
               block_mask=block_mask),
        max_seqlen_q, max_seqlen_kv)
    result, report = attend(q, k, v, settings, extras, out=out,
                            report=ALL if return_report else NOTHING)
    return (result, report) if return_report else result


def select_tokens(q: Any, k: Any, *, select: SelectConfig, sm_scale: float | None = None,
                  softcap: float = 0.0, sink_logits: Any = None, layout: str = "bshd",
                  backend: str = "auto", kv_indices: Any = None, group: Any = None,
                  products: str = "auto") -> KeptTokens:
    """The tokens that :func:`attention` would keep.

    Parameters
    ----------
    q : tensor [batch, seqlen_q, num_q_heads, head_dim]
        Kinds of tensors, and the other parameters, are those of :func:`attention`.
    k : tensor [batch, seqlen_kv, num_kv_heads, head_dim]
    select : SelectConfig
    sm_scale, softcap, sink_logits, layout, backend, kv_indices, group, products : optional
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
    if _compiling():
        return sys.modules["torch"].compiler.disable(select_tokens)(
            q, k, select=select, sm_scale=sm_scale, softcap=softcap, sink_logits=sink_logits,
            layout=layout, backend=backend, kv_indices=kv_indices, group=group,
            products=products)
    no_gradients(q, k)
    q, k = _tensor.view(q, "q"), _tensor.view(k, "k")
    arrays = Arrays(Extras(sink_logits, kv_indices=kv_indices),
                    Settings.of(select, sm_scale, softcap, True, layout, backend,
                                products=products), q)
    nowhere = k._replace(key=(*q.key[:4], False))  # `out`, which is not written
    frame, free = frame_of((q, k, k, nowhere), arrays.settings, arrays, group)
    info, batch = frame.plan.info, frame.batch
    sparse = PATHS[info.path] == "sparse"
    indices, indices_address = _tensor.integers(
        q, (batch, info.num_sets, info.keep_capacity if sparse else 0), 32)
    count, count_address = _tensor.integers(q, (batch,), 64)
    if not sparse:
        count[:] = frame.seqlen_kv
        return KeptTokens(indices, count, _abi.reason_text(info.reason))
    sets = _abi.new(_abi.KeepSet)
    sets.indices, sets.capacity, sets.count = indices_address, info.keep_capacity, count_address
    frame.run("select_tokens", C.byref(sets), gathering(group), False, False)
    free.append(frame)
    return KeptTokens(indices, count)


def estimate_blocks(q: Any, k: Any, *, blocks: BlockConfig, select: SelectConfig | None = None,
                    keep: KeptTokens | None = None, sm_scale: float | None = None,
                    layout: str = "bshd", backend: str = "auto", kv_indices: Any = None,
                    block_scores: Any = None, block_thresholds: Any = None,
                    block_sizes: Any = None) -> BlockMask:
    """The block mask that :func:`attention` would estimate, also where none could win.

    Of vertical_slash the tiles of its distances: no mask holds its columns.

    Parameters
    ----------
    q : tensor [batch, seqlen_q, num_q_heads, head_dim]
        Kinds of tensors, and the other parameters, are those of :func:`attention`.
    k : tensor [batch, seqlen_kv, num_kv_heads, head_dim]
    blocks : BlockConfig
        With an estimated pattern, or "scores".
    select, keep : optional
        Both: the mask of the kept tokens' tiles. Its grid has room for all tokens.
    sm_scale, layout, backend, kv_indices, block_scores, block_thresholds, block_sizes : optional

    Returns
    -------
    BlockMask
        On CUDA its bits are written on torch's current stream.

    Raises
    ------
    ArgumentError
        A shape, type, device or value is wrong (also a ValueError).
    UnsupportedError
        Nothing in this build or on this device can do it (also a NotImplementedError).
    """
    if _compiling():
        return sys.modules["torch"].compiler.disable(estimate_blocks)(
            q, k, blocks=blocks, select=select, keep=keep, sm_scale=sm_scale, layout=layout,
            backend=backend, kv_indices=kv_indices, block_scores=block_scores,
            block_thresholds=block_thresholds, block_sizes=block_sizes)
    no_gradients(q, k)
    q, k = _tensor.view(q, "q"), _tensor.view(k, "k")
    every = dataclasses.replace(select or SelectConfig(enabled=False), dense_policy="never")
    arrays = Arrays(
        Extras(keep=keep, kv_indices=kv_indices, block_scores=block_scores,
               block_thresholds=block_thresholds, block_sizes=block_sizes),
        Settings.of(every, sm_scale, 0.0, True, layout, backend, blocks), q)
    nowhere = k._replace(key=(*q.key[:4], False))  # `out`, which is not written
    frame, free = frame_of((q, k, k, nowhere), arrays.settings, arrays, None)
    info = frame.plan.info
    bits, address = _tensor.integers(
        q, (frame.batch, info.num_masks, info.row_tiles, info.mask_words), 32)
    mask = struct_of(info, address)
    frame.run("estimate_blocks", C.byref(mask), None, False, False)
    free.append(frame)
    before = frame.seqlen_kv - frame.seqlen_q
    # Of a chunk how many of a head's kept tokens come before it is the head's own.
    tiles = Tiles(info.row_tiles, -(-frame.seqlen_kv // TILE),
                  -1 if keep is not None and before else before)
    return BlockMask._of(bits if q.cuda else host_bits(bits), tiles)


def info() -> dict[str, Any]:
    """What this build and this machine can do.

    Returns
    -------
    dict
        version, library (path), backends (name to "available", "compiled" or "not in this
        build"), isas (of float32, best first), products (name to the instruction set that computes
        them for a float16 cache, or to why none does), num_threads.
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
            "products": {name: products_here(name) for name in _abi.PRODUCTS[1:]},
            "num_threads": _threads.pool.num_threads()}
