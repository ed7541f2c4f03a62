"""Packed sequences and page tables, against the same call on tensors laid out plainly."""

import numpy as np
import pytest
import torch

import tokensieve
import tokensieve.ops
from tokensieve import SelectConfig

SPARSE = dict(budget="keep_ratio", keep_ratio=0.25, min_keep=16, obs_window=64, local_window=64,
              dense_policy="never")
SELECTS = {"dense": None, "zero": SelectConfig(**SPARSE),
           "local": SelectConfig(fill="local", share="layer", **SPARSE)}
LENGTHS = (300, 1, 450, 200)


def random(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def begins(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def packed(queries=LENGTHS, keys=LENGTHS):
    """q, k, v, and where the sequences begin in q and in k."""
    q, k, v = (random(sum(n), heads, 32, seed=heads + i) for i, (n, heads) in
               enumerate(((queries, 4), (keys, 2), (keys, 2))))
    return q, k, v, begins(queries), begins(keys)


def one_by_one(q, k, v, cu_q, cu_kv, **more):
    """What each sequence gives alone."""
    parts = [tokensieve.attention(q[None, a:b], k[None, c:d], v[None, c:d], **more)[0]
             for a, b, c, d in zip(cu_q, cu_q[1:], cu_kv, cu_kv[1:]) if b > a]
    return np.concatenate(parts)


@pytest.mark.parametrize("select", SELECTS.values(), ids=SELECTS)
def test_packed_sequences_give_the_bits_that_they_give_alone(select):
    given = packed()
    more = dict(select=select, sm_scale=0.2, softcap=3.0,
                sink_logits=np.array([0.5, -1.0, 2.0, 0.0], np.float32))
    expected = one_by_one(*given, **more)
    out, report = tokensieve.attention_varlen(*given, return_report=True, **more)
    np.testing.assert_array_equal(out, expected)
    assert report.path == ("dense" if select is None else "sparse")
    kept = [(n - 64) // 4 + 64 for n in LENGTHS if n > 64]
    assert report.keep_count == (sum(LENGTHS) if select is None else sum(kept) + 1)
    assert report.keep_ratio == pytest.approx(report.keep_count / sum(LENGTHS))
    # Torch tensors, int64 begins, lengths that are known, a strided q, and `out`.
    q, k, v, *cu = map(torch.from_numpy, given)
    wide = torch.zeros(len(q), 4, 48)
    wide[..., :32] = q
    into = torch.full_like(q, float("nan"))
    longest = max(LENGTHS)
    assert tokensieve.attention_varlen(wide[..., :32], k, v, *(x.long() for x in cu), longest,
                                       longest + 50, out=into, **more) is into
    np.testing.assert_array_equal(into.numpy(), expected)
    torch.testing.assert_close(
        torch.ops.tokensieve.attention_varlen(
            q, k, v, *cu, sink_logits=torch.from_numpy(more["sink_logits"]), sm_scale=0.2,
            select=select.text if select else "", softcap=3.0),
        torch.from_numpy(expected), atol=0, rtol=0)


def test_packed_chunks():
    """Fewer queries than keys; a sequence without any."""
    given = packed(queries=(300, 0, 100), keys=(300, 150, 450))
    for select in (None, SelectConfig(queries="all", **SPARSE)):
        out = tokensieve.attention_varlen(*given, select=select)
        np.testing.assert_array_equal(out, one_by_one(*given, select=select))


def test_packed_in_a_graph():
    q, k, v, *cu = map(torch.from_numpy, packed())

    def call(q, k, v):
        return tokensieve.attention_varlen(q * 2, k, v, *cu, select=SELECTS["local"]) + 1

    graph = torch.compile(call, fullgraph=True, backend="eager")
    torch.testing.assert_close(graph(q, k, v), call(q, k, v), atol=0, rtol=0)
    torch.library.opcheck(torch.ops.tokensieve.attention_varlen.default, (q, k, v, *cu))
    with pytest.raises(tokensieve.ArgumentError, match="forward only"):
        torch.ops.tokensieve.attention_varlen(q.clone().requires_grad_(), k, v, *cu)


def test_errors_of_packed_calls():
    q, k, v, cu, _ = packed()
    cases = [
        (dict(q=q[None]), "q has 4 dimensions; allowed: the 3 of packed sequences"),
        (dict(cu_seqlens_q=cu[:-1]), "have 4 and 5 entries; allowed: the same number"),
        (dict(cu_seqlens_q=cu[:1], cu_seqlens_kv=cu[:1]), "at least 2"),
        (dict(cu_seqlens_q=cu[None]), "cu_seqlens_q has 2 dimensions; allowed: 1"),
        (dict(cu_seqlens_q=cu.astype(float)), "cu_seqlens_q has dtype float64; allowed: integers"),
        (dict(cu_seqlens_kv=cu + 1), "cu_seqlens_kv must ascend from 0 to the tensor's rows"),
        (dict(max_seqlen_q=100), "at most the plan's longest sequence (100)"),
        (dict(max_seqlen_q=0), "max_seqlen_q is 0; allowed: an integer from 1"),
        (dict(max_seqlen_kv=4.5), "max_seqlen_kv is 4.5; allowed: an integer"),
        (dict(cu_seqlens_q=begins((300, 2, 449, 200))), "sequence 1 has 2 queries and 1 keys"),
        (dict(out=np.empty((len(q), 4, 16), np.float32)), "out has shape"),
        (dict(select="tau"), "select is a str"),
        (dict(k=torch.from_numpy(k).requires_grad_()), "forward only"),
    ]
    for change, text in cases:
        arguments = {**dict(q=q, k=k, v=v, cu_seqlens_q=cu, cu_seqlens_kv=cu), **change}
        with pytest.raises(tokensieve.ArgumentError) as caught:
            tokensieve.attention_varlen(**arguments)
        assert text in str(caught.value), change
    # The next call is not disturbed.
    np.testing.assert_array_equal(tokensieve.attention_varlen(q, k, v, cu, cu),
                                  one_by_one(q, k, v, cu, cu))


@pytest.mark.parametrize("layout", ["bshd", "bhsd"])
@pytest.mark.parametrize("select", SELECTS.values(), ids=SELECTS)
def test_a_page_table_gives_the_bits_of_keys_in_order(select, layout):
    q, k, v = random(2, 200, 4, 32), random(2, 400, 2, 32, seed=2), random(2, 400, 2, 32, seed=3)
    if select is not None:
        select = SelectConfig(**{**SPARSE, "queries": "all"}) if select.fill == "zero" else select
        q = q if select.queries == "all" else random(2, 400, 4, 32)
    # The same keys among others, in another order.
    pages = np.stack([np.random.default_rng(b).permutation(500)[:400] for b in range(2)])
    k_rows, v_rows = (random(2, 500, 2, 32, seed=9) for _ in range(2))
    for b in range(2):
        k_rows[b, pages[b]], v_rows[b, pages[b]] = k[b], v[b]

    def laid(*tensors):
        return [x if layout == "bshd" else np.ascontiguousarray(x.swapaxes(1, 2)) for x in tensors]

    expected = tokensieve.attention(*laid(q, k, v), select=select, layout=layout)
    given = laid(q, k_rows, v_rows)
    for indices in (pages, pages.astype(np.int32)):
        out = tokensieve.attention(*given, select=select, layout=layout, kv_indices=indices)
        np.testing.assert_array_equal(out, expected)
    operator = torch.ops.tokensieve.attention(
        *map(torch.from_numpy, given), layout=layout, kv_indices=torch.from_numpy(pages),
        select=select.text if select else "")
    np.testing.assert_array_equal(operator.numpy(), expected)
    if select is None:
        return
    kept = tokensieve.select_tokens(*laid(q, k), select=select, layout=layout)
    paged = tokensieve.select_tokens(*given[:2], select=select, layout=layout, kv_indices=pages)
    np.testing.assert_array_equal(paged.count, kept.count)
    np.testing.assert_array_equal(paged.indices, kept.indices)
    # Given sets, too.
    out = tokensieve.attention(*given, select=select, layout=layout, kv_indices=pages, keep=paged)
    np.testing.assert_array_equal(out, expected)


def test_errors_of_page_tables():
    q, k = random(2, 10, 4, 32), random(2, 30, 2, 32)
    pages = np.tile(np.arange(20), (2, 1))
    cases = [(pages[:1], "kv_indices has shape (1, 20); allowed: [2, tokens]"),
             (pages[0], "kv_indices has 1 dimensions; allowed: 2"),
             (pages + 0.5, "kv_indices has dtype float64; allowed: integers"),
             (pages + 11, "kv_indices[19] is 30; allowed: 0 to 29 (rows of k and v)"),
             (pages - 1, "kv_indices[0] is -1"),
             (np.tile(pages, 2), "k has shape [2, 30, 2, 32]"),
             (pages[:, :5], "seqlen_q is 10")]
    for indices, text in cases:
        with pytest.raises(tokensieve.ArgumentError) as caught:
            tokensieve.attention(q, k, k, kv_indices=indices)
        assert text in str(caught.value), text
    expected = tokensieve.attention(q, k[:, :20], k[:, :20])
    np.testing.assert_array_equal(tokensieve.attention(q, k, k, kv_indices=pages), expected)
