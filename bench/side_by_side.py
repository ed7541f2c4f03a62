#!/usr/bin/env python3
"""tokensieve's CUDA backend beside torch's attention, in one process on one GPU.

Loads libtokensieve.so through its C ABI and measures, interleaved and sustained (back to back for
--seconds per arm and round, the order shuffled every round):
  dense        cuDNN and FA2 through torch SDPA, FA4 (flash-attn-4) if it can be imported, ours
  compact      the same on the exact rows that a sparse layer attends over, all q heads apart
  layer        a whole sparse layer: the paper's (fill zero, per head, tau) and local fill (one set
               per layer), against the best dense kernel of the run
  breakeven    the shortest prompt at which the paper's layer at keep .5 is as fast as dense
  batch, long  8 x 16K tokens; 1M tokens
Prints a table; --json FILE writes every row. Needs a GPU of compute capability 9.0 and torch.

usage: side_by_side.py --library build-shared/bin/libtokensieve.so [--site DIR] [--parts a,b]
"""
import argparse
import json
import math
import os
import pathlib
import random
import site
import statistics
import sys

# The package of this checkout; TOKENSIEVE_LIBRARY says which library it loads.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "adapters/python"))
import tokensieve
from tokensieve import SelectConfig, _call, _tensor

# Kept rows of the paper's layer on the design's measured input (docs/kernels/cuda.md).
PAPER_KEEP = {8192: 0.406, 16384: 0.43, 32768: 0.462, 65536: 0.438, 131072: 0.478}


class Layer:
    """Attention on torch tensors: calling it enqueues one run on torch's current stream."""

    def __init__(self, q, k, v, select=None):
        self.q, self.k, self.v, self.out, self.select = q, k, v, torch.empty_like(q), select

    def __call__(self, report=False):
        return tokensieve.attention(self.q, self.k, self.v, select=self.select, out=self.out,
                                    return_report=report)

    def keep_ratio(self):
        return self(report=True)[1].keep_ratio

    def select_only(self):
        """A callable of the stages score, budget and select alone."""
        return lambda: tokensieve.select_tokens(self.q, self.k, select=self.select)

    def workspace_bytes(self):
        keys = (_tensor.view(x, "tensor").key for x in (self.q, self.k, self.v, self.out))
        return _call.Frame(*keys, _call.Settings.of(self.select), 1).workspace_bytes


def paper(keep=None, **more):
    """The paper's layer; a fixed keep ratio where tau does not matter."""
    if keep is not None:
        more = dict(budget="keep_ratio", keep_ratio=keep, min_keep=1)
    return SelectConfig(dense_policy="never", **more)


def local(keep):
    return SelectConfig(fill="local", share="layer", budget="keep_ratio", keep_ratio=keep,
                        min_keep=64, dense_policy="never")


def tuned_paper_layer(q, k, v, target):
    """The paper's layer with the tau that keeps `target` of these tokens."""
    low, high = 0.0, 0.999
    for _ in range(12):
        tau = (low + high) / 2
        layer = Layer(q, k, v, paper(tau=tau, min_keep=64))
        ratio = layer.keep_ratio()
        if abs(ratio - target) < 0.002:
            break
        low, high = (tau, high) if ratio > target else (low, tau)
    return layer


class Arm:
    """One thing to time: captured into a graph of several calls if that works."""

    def __init__(self, name, call, graph=True):
        self.name, self.call, self.ms = name, call, []
        for _ in range(2):
            call()
        torch.cuda.synchronize()
        self.calls, self.replay = 1, call
        single = self.timed(1)
        if not graph or single > 20:
            return
        calls = max(1, min(50, int(2 / max(single, 1e-3))))
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured, stream=stream):
                for _ in range(calls):
                    call()
            self.calls, self.replay = calls, captured.replay
            self.replay()
            torch.cuda.synchronize()
        except Exception:  # not capturable: timed call by call
            torch.cuda.synchronize()

    def timed(self, replays):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(replays):
            self.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / replays / self.calls

    def measure(self, seconds):
        replays = max(1, math.ceil(seconds * 1e3 / max(self.timed(1) * self.calls, 1e-3)))
        self.ms.append(self.timed(replays))

    @property
    def median(self):
        return statistics.median(self.ms)

    @property
    def spread(self):
        return (max(self.ms) - min(self.ms)) / self.median


class Bench:
    def __init__(self, options):
        self.options, self.rows = options, []
        self.random = random.Random(1)

    def tensors(self, seqlen, q_heads=32, kv_heads=8, batch=1, dim=128):
        def make(heads):
            return torch.randn(batch, seqlen, heads, dim, device="cuda", dtype=torch.bfloat16)
        return make(q_heads), make(kv_heads), make(kv_heads)

    def dense_arms(self, q, k, v, names=("cudnn", "fa2", "fa4", "ours")):
        """Dense kernels on [batch, seq, heads, dim] tensors."""
        swapped = [x.transpose(1, 2) for x in (q, k, v)]
        gqa = q.shape[2] != k.shape[2]

        def sdpa(backend):
            def call():
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(*swapped, is_causal=True, enable_gqa=gqa)
            return call
        calls = {"cudnn": sdpa(SDPBackend.CUDNN_ATTENTION),
                 "fa2": sdpa(SDPBackend.FLASH_ATTENTION)}
        if fa4 is not None:
            calls["fa4"] = lambda: fa4(q, k, v, causal=True)
        arms = []
        for name in names:
            if name == "ours":
                layer = Layer(q, k, v)
                arms.append(Arm("ours dense", layer))
            elif name in calls:
                try:
                    arms.append(Arm(name, calls[name]))
                except Exception as error:
                    print(f"  {name} does not run: {str(error)[:120]}", file=sys.stderr)
        return arms

    def measure(self, arms, seconds=None):
        for _ in range(self.options.rounds):
            order = list(arms)
            self.random.shuffle(order)
            for arm in order:
                arm.measure(seconds or self.options.seconds)

    def best_dense(self, arms):
        return min((a for a in arms if a.name in ("cudnn", "fa2", "fa4")), key=lambda a: a.median)

    def report(self, part, seqlen, arms, best, flop=None, **more):
        for arm in arms:
            row = dict(part=part, tokens=seqlen, arm=arm.name, ms=round(arm.median, 5),
                       spread=round(arm.spread, 4), best_dense=best.name,
                       vs_best_dense=round(best.median / arm.median, 3), **more)
            if flop and "layer" not in arm.name and "select" not in arm.name:
                row["tflops"] = round(flop / arm.median * 1e-9, 1)
            self.rows.append(row)
            print(f"{part:10s} {seqlen:8d} {arm.name:34s} {row['ms']:10.4f} ms"
                  f"  +-{row['spread']:.1%}  x{row['vs_best_dense']:.2f} of {best.name}"
                  + (f"  {row['tflops']:.0f} TFLOP/s" if "tflops" in row else "")
                  + "".join(f"  {k} {v}" for k, v in more.items()), flush=True)

    def check(self, q, k, v):
        """Ours against torch before anything is timed."""
        layer = Layer(q, k, v)
        layer()
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            expected = F.scaled_dot_product_attention(
                *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True,
                enable_gqa=q.shape[2] != k.shape[2]).transpose(1, 2)
        error = ((layer.out.float() - expected.float()).norm() / expected.float().norm()).item()
        if not error < 5e-3:
            sys.exit(f"our dense attention differs from cuDNN's: rel-L2 {error}")

    def dense_and_layers(self, seqlen, batch=1, part=None):
        q, k, v = self.tensors(seqlen, batch=batch)
        self.check(q, k, v)
        keep = PAPER_KEEP.get(seqlen, 0.45)
        zero = tuned_paper_layer(q, k, v, keep)
        own_local = Layer(q, k, v, local(0.2))
        dense = self.dense_arms(q, k, v)
        layers = [Arm(f"layer zero keep {zero.keep_ratio():.3f}", zero),
                  Arm(f"layer local keep {own_local.keep_ratio():.3f}", own_local),
                  Arm("select stages of zero", zero.select_only()),
                  Arm("select stages of local", own_local.select_only())]
        self.measure(dense + layers)
        best = self.best_dense(dense)
        flop = 2.0 * 128 * 32 * seqlen * seqlen * batch
        self.report(part or "dense", seqlen, dense, best, flop)
        self.report(part or "layer", seqlen, layers, best)
        self.rows.append(dict(part="memory", tokens=seqlen, zero_bytes=zero.workspace_bytes(),
                              local_bytes=own_local.workspace_bytes()))

    def compact(self, seqlen):
        rows = round(seqlen * PAPER_KEEP[seqlen])
        for count in sorted({rows, {8192: 3900, 32768: 15700, 131072: 62652}.get(seqlen, rows)}):
            q, k, v = self.tensors(count, 32, 32)
            arms = self.dense_arms(q, k, v, ("cudnn", "fa4", "ours"))
            self.measure(arms)
            self.report("compact", count, arms, self.best_dense(arms), 2.0 * 128 * 32 * count**2)

    def break_even(self):
        for seqlen in (512, 1024, 1536, 2048, 3072, 4096):
            q, k, v = self.tensors(seqlen)
            dense = self.dense_arms(q, k, v)
            layer = Layer(q, k, v, paper(0.5 - SelectConfig().obs_window / seqlen))
            arms = [Arm("layer zero keep .5", layer),
                    Arm("layer local keep .5", Layer(q, k, v, local(0.5)))]
            self.measure(dense + arms, 0.1)
            best = self.best_dense(dense)
            self.report("breakeven", seqlen, dense + arms, best)

    def long(self):
        seqlen = 1 << 20
        q, k, v = self.tensors(seqlen)
        for keep in (0.1, 0.2):
            layer = Layer(q, k, v, local(keep))
            arm = Arm(f"layer local keep {keep}", layer, graph=False)
            arm.measure(0.4)
            self.report("long", seqlen, [arm], arm,
                        workspace_gb=round(layer.workspace_bytes() / 1e9, 2))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--site", help="folder with more Python packages (flash-attn-4)")
    parser.add_argument("--parts", default="8192,32768,131072,breakeven,batch,long")
    parser.add_argument("--seconds", type=float, default=0.4, help="per arm and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file for one JSON object a row")
    options = parser.parse_args()
    load_torch(options.site)
    os.environ["TOKENSIEVE_LIBRARY"] = options.library
    print(f"tokensieve {tokensieve.info()['version']}, torch {torch.__version__}, "
          f"{torch.cuda.get_device_name()}, FA4 {'yes' if fa4 else 'no'}", flush=True)
    bench = Bench(options)
    for part in options.parts.split(","):
        if part.isdigit():
            bench.dense_and_layers(int(part))
            if int(part) in PAPER_KEEP:
                bench.compact(int(part))
        elif part == "breakeven":
            bench.break_even()
        elif part == "batch":
            bench.dense_and_layers(16384, batch=8, part="batch 8")
        elif part == "long":
            bench.long()
        else:
            sys.exit(f"unknown part {part}; allowed: a number of tokens, breakeven, batch, long")
        torch.cuda.empty_cache()
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            for row in bench.rows:
                file.write(json.dumps(row) + "\n")


def load_torch(extra_site):
    """torch and FA4 as globals, after the extra packages' folder is known."""
    global torch, F, sdpa_kernel, SDPBackend, fa4
    if extra_site:
        site.addsitedir(extra_site)
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
    try:
        from flash_attn.cute import flash_attn_func as fa4
    except Exception:  # not installed, or not for this GPU
        fa4 = None


if __name__ == "__main__":
    main()
