"""Tensor parallel: processes that share a layer's heads choose what one process would."""

import dataclasses
import tempfile

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import tokensieve
import tokensieve.hf
from tokensieve import SelectConfig
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS, HEADS, KV_HEADS, DIM = 500, 24, 12, 16
SELECTS = {
    "tau_head": SelectConfig(tau=0.1, obs_window=32, min_keep=16, dense_policy="never"),
    "tau_layer": SelectConfig(tau=0.1, obs_window=32, min_keep=16, dense_policy="never",
                              share="layer", fill="local", local_window=64),
}


def run_ranks(body, num_ranks, *arguments, backend="gloo"):
    """What body(rank, *arguments) returns in each of `num_ranks` processes of a group; with NCCL
    each has a GPU of its own."""
    with tempfile.TemporaryDirectory() as folder:
        # Forked, since a new interpreter takes seconds to import torch; CUDA does not bear a fork.
        mp.start_processes(_enter, (num_ranks, folder, backend, body, arguments),
                           nprocs=num_ranks, start_method="fork" if backend == "gloo" else "spawn")
        return [torch.load(f"{folder}/{rank}.pt", weights_only=False)
                for rank in range(num_ranks)]


def _enter(rank, num_ranks, folder, backend, body, arguments):
    torch.set_num_threads(1)
    tokensieve.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank,
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


def assert_same_sets(indices, kept, select):
    """`indices`: the sets of each rank; `kept`: what one process chose for all heads."""
    if select.share == "layer":
        assert all(torch.equal(sets, sets_of(kept)) for sets in indices)
    else:
        assert torch.equal(torch.cat(indices, dim=1), sets_of(kept))


def op_rank(rank):
    """attention and select_tokens of this rank's heads, by configuration."""
    own = [x.chunk(dist.get_world_size(), dim=2)[rank] for x in tensors()]
    group = dist.group.WORLD
    results = {}
    for name, select in SELECTS.items():
        kept = tokensieve.select_tokens(*own[:2], select=select, group=group)
        out, report = tokensieve.attention(*own, select=select, group=group, return_report=True)
        alone = tokensieve.select_tokens(*own[:2], select=select)
        assert not torch.equal(alone.count, kept.count), "own heads would do"
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
        assert_same_sets(indices, kept, select)


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


# ---- models

LAYERS, PROMPT = 3, 200
SELECT = SelectConfig(tau=0.3, obs_window=32, min_keep=8, local_window=64, fill="local",
                      share="layer", dense_policy="never")


def model_of(**more):
    torch.manual_seed(11)
    config = LlamaConfig(vocab_size=97, hidden_size=64, intermediate_size=96,
                         num_hidden_layers=LAYERS, num_attention_heads=8, num_key_value_heads=4,
                         head_dim=16, attn_implementation="tokensieve", initializer_range=0.3)
    model = LlamaForCausalLM(config).eval()
    tokensieve.hf.configure(model, select=SELECT, layers=range(1, LAYERS), min_tokens=100, **more)
    return model


def logits_and_counts(model):
    """What the model computes, and by layer: calls, sparse calls, kept share."""
    prompt = torch.arange(PROMPT)[None] * 31 % 97
    with torch.no_grad():
        logits = model(prompt).logits
    stats = tokensieve.hf.stats(model)
    return logits, [(s.calls, s.sparse, s.keep_ratio, dict(s.reasons)) for s in stats.values()]


def split(model, mesh):
    """torch's tensor parallelism of the attention layers."""
    from torch.distributed.tensor.parallel import (ColwiseParallel, RowwiseParallel,
                                                   parallelize_module)
    for layer in model.model.layers:
        parallelize_module(layer.self_attn, mesh, {
            "q_proj": ColwiseParallel(), "k_proj": ColwiseParallel(), "v_proj": ColwiseParallel(),
            "o_proj": RowwiseParallel()})
    return model


def model_rank(rank, dimensions):
    from torch.distributed.device_mesh import init_device_mesh
    ranks = dist.get_world_size()
    if dimensions == 1:
        mesh = init_device_mesh("cpu", (ranks,))
    else:
        mesh = init_device_mesh("cpu", (1, ranks), mesh_dim_names=("dp", "tp"))["tp"]
    return logits_and_counts(split(model_of(), mesh))


@pytest.mark.parametrize("num_ranks, dimensions", [(2, 1), (4, 2)])
def test_model(num_ranks, dimensions):
    logits, counts = logits_and_counts(model_of())
    assert counts[1][:2] == (1, 1) and counts[1][2] < 0.8
    for own_logits, own_counts in run_ranks(model_rank, num_ranks, dimensions):
        torch.testing.assert_close(own_logits, logits, atol=2e-4, rtol=1e-4)
        assert own_counts == counts


def explicit_rank(rank):
    """A layer that is split without DTensors says so only by its number of heads."""
    model = model_of()
    for layer in model.model.layers:
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight = torch.nn.Parameter(projection.weight.chunk(2)[rank].clone())
        attention.o_proj.weight = torch.nn.Parameter(
            attention.o_proj.weight.chunk(2, dim=1)[rank].clone())
        attention.o_proj.register_forward_hook(lambda _module, _args, out: _reduced(out))
    unknown = logits_and_counts(model)
    tokensieve.hf.configure(model, select=SELECT, layers=range(1, LAYERS), min_tokens=100,
                            group=dist.group.WORLD)
    tokensieve.hf.reset_stats(model)
    return unknown, logits_and_counts(model)


def _reduced(x):
    dist.all_reduce(x)
    return x


def test_explicit_group():
    logits, counts = logits_and_counts(model_of())
    for (_, unknown), (own_logits, own_counts) in run_ranks(explicit_rank, 2):
        (reason,) = unknown[1][3]
        assert unknown[1][1] == 0 and "4 of 8 heads here" in reason and "configure" in reason
        torch.testing.assert_close(own_logits, logits, atol=2e-4, rtol=1e-4)
        assert own_counts == counts


def auto_rank(rank, saved):
    from transformers.distributed import DistributedConfig
    model = LlamaForCausalLM.from_pretrained(
        saved, attn_implementation="tokensieve",
        distributed_config=DistributedConfig(tp_size=dist.get_world_size(), tp_plan="auto"))
    tokensieve.hf.configure(model, select=SELECT, layers=range(1, LAYERS), min_tokens=100)
    return logits_and_counts(model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="transformers would put gloo's ranks on GPUs")
def test_tp_plan_auto(tmp_path):
    pytest.importorskip("accelerate")  # transformers loads a split model with it only
    model = model_of()
    logits, counts = logits_and_counts(model)
    model.save_pretrained(tmp_path)
    for own_logits, own_counts in run_ranks(auto_rank, 2, str(tmp_path)):
        torch.testing.assert_close(own_logits, logits, atol=2e-4, rtol=1e-4)
        assert own_counts == counts


def fsdp_rank(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = model_of()
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    tokensieve.hf.configure(model, select=SELECT, layers=range(1, LAYERS), min_tokens=100)
    return logits_and_counts(model)


def test_fsdp():
    """Weights are split, heads are not: nothing to agree on."""
    logits, counts = logits_and_counts(model_of())
    for own_logits, own_counts in run_ranks(fsdp_rank, 2):
        torch.testing.assert_close(own_logits, logits)
        assert own_counts == counts


# ---- GPUs, a rank each

needs_gpus = pytest.mark.skipif(
    torch.cuda.device_count() < 2 or tokensieve.info()["backends"]["cuda"] != "available",
    reason="no two Hopper GPUs, or a build without CUDA")
GPU_TOKENS = 3000
GPU_SELECTS = {
    "tau_head": SelectConfig(tau=0.1, obs_window=64, min_keep=64, dense_policy="never"),
    "keep_layer": SelectConfig(budget="keep_ratio", keep_ratio=0.2, obs_window=64, min_keep=64,
                               share="layer", fill="local", local_window=128,
                               dense_policy="never"),
}


def gpu_tensors():
    torch.manual_seed(7)
    return [torch.randn(2, GPU_TOKENS, heads, 64, dtype=torch.bfloat16) for heads in (16, 4, 4)]


def nccl_rank(rank):
    """By configuration: sets, counts and output of this rank's heads."""
    own = [x.chunk(dist.get_world_size(), dim=2)[rank].cuda() for x in gpu_tensors()]
    results = {}
    for name, select in GPU_SELECTS.items():
        kept = tokensieve.select_tokens(*own[:2], select=select, group=dist.group.WORLD)
        out, report = tokensieve.attention(*own, select=select, group=dist.group.WORLD,
                                           return_report=True)
        assert report.path == "sparse"
        # On another stream than the default one, behind work that is still to be done.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            late = [(x.float() + 0).to(x.dtype) for x in own]
            again = tokensieve.attention(*late, select=select, group=dist.group.WORLD)
        torch.cuda.synchronize()
        assert torch.equal(again, out)
        results[name] = sets_of(_on_cpu(kept)), kept.count.cpu(), out.cpu()
    return results


def _on_cpu(kept):
    return dataclasses.replace(kept, indices=kept.indices.cpu(), count=kept.count.cpu())


@needs_gpus
def test_nccl_ops():
    q, k, v = (x.cuda() for x in gpu_tensors())
    ranks = run_ranks(nccl_rank, 2, backend="nccl")
    for name, select in GPU_SELECTS.items():
        kept = _on_cpu(tokensieve.select_tokens(q, k, select=select))
        out = tokensieve.attention(q, k, v, select=select).cpu()
        indices, counts, outs = zip(*(rank[name] for rank in ranks))
        assert all(torch.equal(count, kept.count) for count in counts)
        assert torch.equal(torch.cat(outs, dim=2), out)
        assert_same_sets(indices, kept, select)


def gpu_model():
    torch.manual_seed(13)
    config = LlamaConfig(vocab_size=97, hidden_size=512, intermediate_size=512,
                         num_hidden_layers=LAYERS, num_attention_heads=8, num_key_value_heads=4,
                         head_dim=64, attn_implementation="tokensieve", initializer_range=0.05)
    model = LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()
    tokensieve.hf.configure(model, select=GPU_SELECTS["keep_layer"], layers=range(1, LAYERS),
                            min_tokens=100)
    return model


def gpu_logits_and_ratios(model):
    prompt = (torch.arange(GPU_TOKENS)[None] * 31 % 97).cuda()
    with torch.no_grad(), tokensieve.hf.measure() as layers:
        logits = model(prompt).logits
    return logits.float().cpu(), [layer.keep_ratio for layer in layers.values()]


def nccl_model_rank(rank):
    from torch.distributed.device_mesh import init_device_mesh
    mesh = init_device_mesh("cuda", (dist.get_world_size(),))
    return gpu_logits_and_ratios(split(gpu_model(), mesh))


@needs_gpus
def test_nccl_model():
    """A rank's sum over heads is rounded to bf16 before the all-reduce, so near ties may be chosen
    otherwise; how many are kept may not."""
    logits, ratios = gpu_logits_and_ratios(gpu_model())
    assert len(ratios) == LAYERS and all(ratio < 0.3 for ratio in ratios[1:])
    for own_logits, own_ratios in run_ranks(nccl_model_rank, 2, backend="nccl"):
        assert (own_logits - logits).norm() < 0.05 * logits.norm()
        assert own_ratios == ratios
