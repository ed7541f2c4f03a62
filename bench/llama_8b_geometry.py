#!/usr/bin/env python3
"""Time to first token of a model with Llama-3.1-8B's shape, dense and sparse, on one GPU.

The weights are random and made on the GPU, so nothing is fetched; times and memory are those of the
real model at the same keep ratio. Prefill with the logits of the last token, KV cache included:
  sdpa   torch SDPA with the cuDNN backend: the yardstick
  paper  layers 15-30 sparse, keep ratio .456, a set per head, zero fill (the paper's level)
  local  layers 2-31 sparse, keep ratio .2, a set per layer, local fill
Arms take turns; the order is shuffled every round. Before timing it is checked that tokensieve with
selection off gives SDPA's logits, as closely as SDPA's own FlashAttention backend does.

usage: llama_8b_geometry.py [--tokens 8192 131072] [--repeats 3] [--json FILE]
"""
import argparse
import contextlib
import gc
import json
import random
import statistics
import sys
import time

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel

import tokensieve.hf
from tokensieve import SelectConfig

GIB = 1 << 30
LLAMA_3_1_8B = dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336,
                    num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
                    head_dim=128, max_position_embeddings=131072, rms_norm_eps=1e-5,
                    rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
                    tie_word_embeddings=False)
TINY = dict(LLAMA_3_1_8B, vocab_size=512, hidden_size=256, intermediate_size=512,
            num_attention_heads=4, num_key_value_heads=2, head_dim=64)
SPARSE = {
    "paper": (range(15, 31), SelectConfig(budget="keep_ratio", keep_ratio=0.456)),
    "local": (range(2, 32), SelectConfig(budget="keep_ratio", keep_ratio=0.2, share="layer",
                                         fill="local")),
}
# By arm and prompt length: least speed-up over sdpa; by arm: most of its memory.
WANTED_SPEED = {("paper", 8192): 1.0, ("paper", 131072): 1.35, ("local", 131072): 2.5}
WANTED_MEMORY = {"paper": 1.03, "local": 1.02}


def dense_kernel(device):
    """The yardstick's SDPA backend; dense layers of the sparse arms use it too."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH], set_priority=True)


def make_model(shape, device):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**shape)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            return transformers.LlamaForCausalLM(config).eval()
        finally:
            torch.set_default_dtype(before)


def use(model, arm):
    """Switches the model to an arm."""
    tokensieve.hf.reset_stats(model)
    if arm == "sdpa":
        model.set_attn_implementation("sdpa")
        return
    model.set_attn_implementation("tokensieve")
    layers, select = SPARSE[arm]
    tokensieve.hf.configure(model, select=select, layers=layers)


@torch.no_grad()
def last_logits(model, ids, count=1):
    return model(ids, logits_to_keep=count).logits


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_to_first_token(model, ids):
    """Seconds and peak bytes of one prefill."""
    device = ids.device
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begin = time.perf_counter()
    last_logits(model, ids)[0, -1].argmax().item()
    seconds = time.perf_counter() - begin
    return seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def difference(a, b):
    return float((a.float() - b.float()).norm() / b.float().norm())


def check(model, ids):
    """Selection off equals SDPA; the sparse arms run sparse and stay finite."""
    use(model, "sdpa")
    with dense_kernel(ids.device):
        expected = last_logits(model, ids, 256)
    if ids.device.type == "cuda":
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            noise = difference(last_logits(model, ids, 256), expected)
    else:
        noise = 1e-3
    model.set_attn_implementation("tokensieve")
    tokensieve.hf.configure(model, select=SelectConfig(enabled=False), min_tokens=1,
                            layers=range(1, model.config.num_hidden_layers))
    tokensieve.hf.reset_stats(model)
    error = difference(last_logits(model, ids, 256), expected)
    calls = [dict(s.reasons) for s in tokensieve.hf.stats(model).values()]
    print(f"check at {ids.shape[1]} tokens: logits of 256 rows, tokensieve dense against SDPA "
          f"{error:.2e} (SDPA's FlashAttention backend: {noise:.2e})", flush=True)
    if not error <= 2 * noise or calls[1:] != [{"selection is off": 1}] * (len(calls) - 1):
        sys.exit(f"check failed: difference {error}, allowed {2 * noise}; layers: {calls}")
    for arm, (layers, select) in SPARSE.items():
        use(model, arm)
        with dense_kernel(ids.device), tokensieve.sparse(dense_policy="never"):
            logits = last_logits(model, ids, 256)
        ran = {layer for layer, s in tokensieve.hf.stats(model).items() if s.sparse}
        if ran != set(layers) or not logits.isfinite().all() or difference(logits, expected) == 0:
            sys.exit(f"check failed: {arm} ran sparse in layers {sorted(ran)}, wanted {layers}; "
                     f"finite: {bool(logits.isfinite().all())}")
    gc.collect()


def measure(model, ids, repeats):
    """Rows of one prompt length."""
    arms = ["sdpa", *SPARSE]
    times = {arm: [] for arm in arms}
    peaks = {arm: 0 for arm in arms}
    sparse_layers = {arm: 0 for arm in arms}
    with dense_kernel(ids.device):
        for turn in range(repeats + 1):  # the first is the warm-up
            for arm in random.sample(arms, len(arms)):
                use(model, arm)
                seconds, peak = time_to_first_token(model, ids)
                if turn:
                    times[arm].append(seconds)
                    peaks[arm] = max(peaks[arm], peak)
                    sparse_layers[arm] = sum(s.sparse > 0 for s in
                                             tokensieve.hf.stats(model).values())
    dense = statistics.median(times["sdpa"])
    return [dict(tokens=ids.shape[1], arm=arm, seconds=times[arm],
                 median_s=statistics.median(times[arm]),
                 speedup=dense / statistics.median(times[arm]), peak_gib=peaks[arm] / GIB,
                 memory=peaks[arm] / peaks["sdpa"] if peaks["sdpa"] else 1.0,
                 sparse_layers=sparse_layers[arm]) for arm in arms]


def breakdown(model, ids):
    """Seconds of one prefill in attention, by arm."""
    result = {}
    with dense_kernel(ids.device):
        for arm in ["sdpa", *SPARSE]:
            use(model, arm)
            with tokensieve.hf.measure() as layers:
                last_logits(model, ids)
            result[arm] = sum(layer.seconds for layer in layers.values())
    return result


def verdicts(row):
    """The targets of a row, as text and whether they are met."""
    wanted = WANTED_SPEED.get((row["arm"], row["tokens"]))
    if wanted is None:
        return []
    most = WANTED_MEMORY[row["arm"]]
    return [(f"x{row['speedup']:.3f} (wanted x{wanted})", row["speedup"] >= wanted),
            (f"memory x{row['memory']:.3f} (allowed x{most})", row["memory"] <= most)]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 131072])
    parser.add_argument("--repeats", type=int, default=3, help="per arm, at the longest prompt; "
                        "shorter ones get more (default: 3)")
    parser.add_argument("--no-breakdown", action="store_true",
                        help="skip one more run of each arm with events around attention")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try this script")
    parser.add_argument("--json", metavar="FILE", help="write every time here")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; use one, or --device cpu --tiny")

    random.seed(0)
    model = make_model(TINY if options.tiny else LLAMA_3_1_8B, device)
    longest = max(options.tokens)
    ids = torch.randint(0, model.config.vocab_size, (1, longest), device=device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}, "
          f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f}e9 weights", flush=True)
    check(model, ids[:, :8192])

    rows, failed = [], False
    for tokens in sorted(options.tokens):
        repeats = options.repeats * (1 if tokens == longest else 5)
        prompt = ids[:, :tokens]
        found = measure(model, prompt, repeats)
        attention = {} if options.no_breakdown else breakdown(model, prompt)
        print(f"\n{tokens} tokens, {repeats} runs each\narm      first token ms      speed-up   "
              "peak GiB   attention ms   sparse layers")
        for row in found:
            row["attention_s"] = attention.get(row["arm"])
            shown = "-" if row["attention_s"] is None else f"{row['attention_s'] * 1e3:.1f}"
            print(f"{row['arm']:6} {row['median_s'] * 1e3:10.1f} (+-"
                  f"{(max(row['seconds']) - min(row['seconds'])) * 500:5.1f}) {row['speedup']:9.3f}"
                  f" {row['peak_gib']:10.2f} {shown:>14} {row['sparse_layers']:15d}", flush=True)
            for text, met in verdicts(row):
                print(f"       {'met' if met else 'MISSED'}: {text}", flush=True)
                failed = failed or not met
        rows += found
    if options.json:
        with open(options.json, "w") as file:
            json.dump(dict(device=name, torch=torch.__version__,
                           transformers=transformers.__version__,
                           tokensieve=tokensieve.info()["version"], rows=rows), file, indent=1)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
