"""Tensor parallel: processes that share a layer's heads choose what one process would."""

import tempfile

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import tokensieve
from tokensieve import SelectConfig

TOKENS, HEADS, KV_HEADS, DIM = 500, 24, 12, 16
SELECTS = {
    "tau_head": SelectConfig(tau=0.1, obs_window=32, min_keep=16, dense_policy="never"),
    "tau_layer": SelectConfig(tau=0.1, obs_window=32, min_keep=16, dense_policy="never",
                              share="layer", fill="local", local_window=64),
}


def run_ranks(body, num_ranks, *arguments):
    """body(rank, folder, *arguments) in processes with a gloo group; the folder's results."""
    with tempfile.TemporaryDirectory() as folder:
        # Forked, since a new interpreter takes seconds to import torch.
        mp.start_processes(_enter, (num_ranks, folder, body, arguments), nprocs=num_ranks,
                           start_method="fork")
        return [torch.load(f"{folder}/{rank}.pt", weights_only=False)
                for rank in range(num_ranks)]


def _enter(rank, num_ranks, folder, body, arguments):
    torch.set_num_threads(1)
    tokensieve.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank,
                            world_size=num_ranks)
    try:
        torch.save(body(rank, *arguments), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def tensors():
    torch.manual_seed(5)
    q, k, v = (torch.randn(2, TOKENS, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    return 2.0 * q, k, v


def sets_of(kept):
    """[batch, num_sets, capacity] without what lies behind the counts."""
    behind = torch.arange(kept.indices.shape[2]) >= kept.count[:, None, None]
    return kept.indices.masked_fill(behind, -1)


def op_rank(rank):
    """attention and select_tokens of this rank's heads, by configuration."""
    own = [x.chunk(dist.get_world_size(), dim=2)[rank] for x in tensors()]
    group = dist.group.WORLD
    results = {}
    for name, select in SELECTS.items():
        kept = tokensieve.select_tokens(*own[:2], select=select, group=group)
        out, report = tokensieve.attention(*own, select=select, group=group, return_report=True)
        results[name] = (sets_of(kept), kept.count, out, report.keep_count)
    # Given sets need no other rank.
    given = tokensieve.attention(*own, select=select, keep=kept)
    assert torch.equal(given, out)
    return results


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_ops(num_ranks):
    q, k, v = tensors()
    ranks = run_ranks(op_rank, num_ranks)
    for name, select in SELECTS.items():
        kept = tokensieve.select_tokens(q, k, select=select)
        out, report = tokensieve.attention(q, k, v, select=select, return_report=True)
        assert report.path == "sparse"
        indices, counts, outs, kept_counts = zip(*(rank[name] for rank in ranks))
        assert torch.equal(torch.cat(outs, dim=2), out)
        assert all(torch.equal(count, kept.count) for count in counts)
        assert set(kept_counts) == {report.keep_count}
        if select.share == "layer":
            assert all(torch.equal(sets, sets_of(kept)) for sets in indices)
        else:
            assert torch.equal(torch.cat(indices, dim=1), sets_of(kept))


def failing_rank(rank):
    own = [x.chunk(2, dim=2)[rank] for x in tensors()]

    class Broken:
        size, rank = (lambda self: 2), (lambda self: 0)

    with pytest.raises(tokensieve.Error, match="all_gather failed") as caught:
        tokensieve.attention(*own, select=SELECTS["tau_head"], group=Broken())
    assert isinstance(caught.value.__cause__, Exception)
    # One rank is no group at all.
    alone = dist.new_group([rank], use_local_synchronization=True)
    out = tokensieve.attention(*own, select=SELECTS["tau_head"], group=alone)
    return torch.equal(out, tokensieve.attention(*own, select=SELECTS["tau_head"]))


def test_errors_reach_the_caller():
    assert run_ranks(failing_rank, 2) == [True, True]
