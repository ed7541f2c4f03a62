"""Bring your own attention kernel: select -> compact -> attn_fn -> scatter, on torch tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tokensieve._abi import ArgumentError
from tokensieve._attention import select_tokens
from tokensieve._block_mask import BlockMask
from tokensieve._select import SelectConfig


def sieve(attn_fn: Callable[..., Any], *, select: SelectConfig | None = None,
          sm_scale: float | None = None, block_mask: BlockMask | None = None
          ) -> Callable[..., Any]:
    """Makes any causal attention sparse: it runs on the kept rows only.

    Parameters
    ----------
    attn_fn : callable (q, k, v) -> out
        Causal attention over torch tensors [batch, heads, seq, dim]. It sees k and v with fewer
        heads than q if heads share kept tokens (``share`` "kv" or "layer"), and with as many as q
        otherwise. Called once per sequence; with all rows where selection runs dense.
    select : SelectConfig, optional
        None: tau .005. ``fill`` must be "zero" and ``queries`` "kept", since the rest is a kernel's
        business.
    sm_scale : float, optional
        The logit factor of attn_fn, by which tokens are scored; None: 1 / sqrt(head_dim).
    block_mask : BlockMask, optional
        What queries see of the keys, by blocks of the prompt. attn_fn is then called as
        ``attn_fn(q, k, v, block_mask=...)`` with FlexAttention's BlockMask over the kept rows,
        causality included. Tokens are scored as if every block were seen.

    Returns
    -------
    callable (q, k, v) -> out
        For whole prompts: q [batch, num_q_heads, seq, head_dim], k and v [batch, num_kv_heads,
        seq, head_dim]. Rows of dropped tokens, and rows that see nothing, are 0. Forward only. On
        CUDA it waits for the number of kept tokens. Inside torch.compile it breaks the graph;
        attn_fn may be compiled.

    Raises
    ------
    ArgumentError
        Here: a setting that is not possible. In a call: what `select_tokens` refuses, or a q that
        is not the whole prompt, or that the block mask does not cover.

    Examples
    --------
    >>> sdpa = functools.partial(F.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
    >>> out = tokensieve.sieve(sdpa, select=tokensieve.SelectConfig(share="layer"))(q, k, v)
    """
    select = select or SelectConfig()
    if select.fill != "zero" or select.queries != "kept":
        raise ArgumentError(f"fill is {select.fill}, queries {select.queries}; allowed: zero and "
                            "kept (tokensieve.attention has the others)")
    call = functools.partial(_call, attn_fn, select, sm_scale, block_mask)
    from torch.compiler import disable
    return disable(  # type: ignore[no-untyped-call]
        call, reason="how many tokens are kept depends on the data")


def _call(attn_fn: Callable[..., Any], select: SelectConfig, sm_scale: float | None,
          block_mask: BlockMask | None, q: Any, k: Any, v: Any) -> Any:
    import torch
    if q.ndim != 4 or q.shape[2] != k.shape[2] or v.shape != k.shape:
        raise ArgumentError(f"q, k, v have shapes {tuple(q.shape)}, {tuple(k.shape)}, "
                            f"{tuple(v.shape)}; allowed: [batch, heads, seq, dim] with one seq, v "
                            "like k")
    batch, heads, seq, _ = q.shape
    if block_mask is not None:
        block_mask._check(batch, heads, seq)
    kept = select_tokens(q, k, select=select, sm_scale=sm_scale, layout="bhsd")
    if kept.reason and block_mask is None:
        return attn_fn(q, k, v)
    out = q.new_zeros(q.shape)
    every = torch.arange(seq, device=q.device)[None]
    for b, count in enumerate(kept.count.tolist()):
        one = slice(b, b + 1)
        sets = every if count == seq else kept.indices[b, :, :count].long()
        mask = ({} if block_mask is None else
                {"block_mask": block_mask.over(sets, b, heads)})
        if count == seq:
            out[one] = attn_fn(q[one], k[one], v[one], **mask)
            continue
        rows = _rows(sets, heads, q)
        kv_heads = max(sets.shape[0], k.shape[1])
        kv_rows = _rows(sets, kv_heads, k)
        k_one, v_one = (x[one].repeat_interleave(kv_heads // x.shape[1], dim=1) for x in (k, v))
        compact = attn_fn(q[one].gather(2, rows), k_one.gather(2, kv_rows),
                          v_one.gather(2, kv_rows), **mask)
        out[one] = out[one].scatter(2, rows, compact)
    return out


def _rows(sets: Any, heads: int, x: Any) -> Any:
    """Indices of the kept rows for gather: [1, heads, count, dim]."""
    rows = sets.repeat_interleave(heads // sets.shape[0], dim=0)
    return rows[None, :, :, None].expand(1, heads, rows.shape[1], x.shape[3])
