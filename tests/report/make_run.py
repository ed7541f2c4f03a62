#!/usr/bin/env python3
"""Makes a run file with invented numbers, for the tests of `tokensieve report` only.

usage: make_run.py [--model NAME] [--lengths 1024,2048] [--cases N] [--seed S] [--gpu NAME] > run.jsonl

The numbers follow simple rules (more damage with fewer tokens and longer prompts), so that every
part of the page has something to show; they measure nothing.
"""

import argparse
import json
import math
import pathlib
import random
import re

SOURCES = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = SOURCES / "examples/documents/observatory_handbook.md"
LAYERS = 30
TASKS = ("single_needle", "multi_key", "multi_value", "variable_tracking", "qa", "common_words")
NEEDLES = TASKS[:3]
DENSE_SKILL = {
    "single_needle": 0.99,
    "multi_key": 0.9,
    "multi_value": 0.85,
    "variable_tracking": 0.7,
    "qa": 0.8,
    "common_words": 0.2,
}
# name: kind, sparse layers, kept share, damage at that share
CONFIGS = {
    "stock": ("stock", 0, 1.0, 0.0),
    "dense": ("dense", 0, 1.0, 0.0),
    "keep-0.1": ("sparse", 28, 0.1, 0.06),
    "keep-0.2": ("sparse", 28, 0.2, 0.015),
    "keep-0.4": ("sparse", 28, 0.4, 0.006),
    "tau-0.005": ("sparse", 15, 0.45, 0.03),
    "tau-0.05": ("sparse", 15, 0.2, 0.08),
    "no-selection": ("none", 28, 0.02, 0.45),
    "random": ("random", 28, 0.2, 0.4),
    "recent-only": ("recent", 28, 0.2, 0.5),
    "evict": ("evict", 28, 0.2, 0.25),
}


def profile(name, layers):
    if not layers:
        return None
    budget, value = (name.split("-") + ["0.2"])[:2]
    select = (
        {"budget": "tau", "tau": float(value), "fill": "zero", "share": "head"}
        if (budget == "tau")
        else {
            "budget": "keep_ratio",
            "keep_ratio": float(value) if budget == "keep" else 0.2,
            "fill": "local",
            "share": "layer",
            "local_window": 512,
            "sinks": 4,
        }
    )
    return {
        "tokensieve_profile": 1,
        "model": "smollm2",
        "fingerprint": {"architecture": "llama", "num_layers": LAYERS},
        "sparse_layers": list(range(LAYERS - layers, LAYERS)),
        "min_tokens": 256,
        "select": select,
    }


def header(options):
    configs = [
        {
            "name": name,
            "kind": kind,
            "mode": "whole" if layers else "",
            "note": "invented",
            **({"profile": p} if (p := profile(name, layers)) else {}),
        }
        for name, (kind, layers, _, _) in CONFIGS.items()
    ]
    return {
        "type": "run",
        "format": 1,
        "tool": "tokensieve 0.1.0",
        "date": "2026-11-24T13:00:00Z",
        "command": f"make_run.py --seed {options.seed} (invented numbers)",
        "machine": {"cpu": "an invented CPU", "threads": 2, "gpu": options.gpu},
        "model": {"name": options.model, "file": f"{options.model}.gguf", "context": 8192},
        "seed": options.seed,
        "tasks": [*TASKS, "text"],
        "lengths": options.lengths,
        "cases": options.cases,
        "configs": configs,
    }


def layer_lines(layers, keep, length, rng):
    lines = []
    for layer in range(LAYERS):
        sparse = layer >= LAYERS - layers
        ratio = (
            min(1.0, keep * rng.uniform(0.7, 1.3) * (1 + 0.6 * math.sin(layer / 3)))
            if sparse
            else 1.0
        )
        work = min(1.0, 0.6 * ratio + 512 / length) if sparse else 1.0
        line = {
            "layer": layer,
            "keep_ratio": round(ratio, 4),
            "work": round(work, 4),
            "attention_ms": round(work * (length / 1024) ** 2 * 4, 3),
        }
        lines.append(line if sparse else {**line, "reason": "layer not in the profile"})
    return lines


def result(task, length, case, name, seed):
    kind, layers, keep, damage = CONFIGS[name]
    rng = random.Random(f"{seed} {task} {length} {case} {name}")
    luck = random.Random(f"{seed} {task} {length} {case}").random()
    lines = layer_lines(layers, keep, length, rng)
    attention = sum(line["attention_ms"] for line in lines)
    work = sum(line["work"] for line in lines) / LAYERS
    base = {
        "type": "result",
        "task": task,
        "length": length,
        "case": case,
        "config": name,
        "filler": "fiction",
        "prompt_tokens": length - case,
        "prefill_ms": round(length * 1.1 + attention, 1),
        "work": round(work, 4),
        "keep_ratio": round(keep, 4),
    }
    if kind != "stock":
        base |= {"attention_ms": round(attention, 1), "layers": lines}
    damage *= math.sqrt(length / 2048)
    if task == "text":
        kl = 0 if kind in ("stock", "dense") else damage * rng.uniform(0.7, 1.3)
        nll = 2.3 + 0.1 * luck
        return base | {
            "metrics": {
                "tokens": 64,
                "kl": round(kl, 5),
                "kl_max": round(kl * 8, 4),
                "top1": round(1 - min(0.9, kl * 1.4), 4),
                "nll": round(nll + 0.6 * kl, 4),
                "nll_dense": round(nll, 4),
            }
        }
    skill = DENSE_SKILL[task]

    def score(shift):
        return 1.0 if luck * (1 + shift) < skill and rng.random() > damage else 0.0

    follow_ups = [
        {
            "question": f"And number {i}?",
            "expected": ["7"],
            "answer": "7",
            "score": score(0.05) if rng.random() > damage else 0.0,
        }
        for i in range(2)
    ]
    answer = score(0)
    base |= {
        "expected": ["48213"],
        "answer": "48213" if answer else "I do not know",
        "score": answer,
        "generate_ms": 80.5,
        "follow_ups": follow_ups,
    }
    if task in NEEDLES:
        base["depth"] = round(case / 7 % 1.0, 3) if case < 8 else round(luck, 3)
    return base


def kept(length, name, seed, sets):
    _, layers, keep, _ = CONFIGS[name]
    text = DOCUMENT.read_text()
    words = re.findall(r"\s?[^\s]{1,6}|\s+", text) * (1 + length // 5000)
    half = length // 2
    tokens = [
        *words[:half],
        " The",
        " access",
        " code",
        " of",
        " the",
        " dome",
        " is",
        " 48",
        "213",
        ".",
        *words[half : length - 10],
    ]
    rng = random.Random(f"{seed} {name}")
    lines = []
    for layer in range(LAYERS - layers, LAYERS):
        ranges = []
        for _ in range(sets):
            middles = {i for i in range(0, len(tokens) - 64, 9) if rng.random() < keep}
            if rng.random() < 0.8:
                middles.add(half + 6)
            chosen = sorted(
                {j for i in middles for j in range(max(0, i - 3), i + 4)}
                | set(range(4))
                | set(range(len(tokens) - 64, len(tokens)))
            )
            runs = []
            for i in chosen:
                if runs and runs[-1][1] == i - 1:
                    runs[-1][1] = i
                else:
                    runs.append([i, i])
            ranges.append(runs)
        lines.append({"layer": layer, "sets": sets, "kept": ranges})
    return {
        "type": "kept",
        "task": "single_needle",
        "length": length,
        "case": 0,
        "config": name,
        "tokens": tokens,
        "layers": lines,
    }


def lines(options):
    yield header(options)
    for length in options.lengths:
        for task in (*TASKS, "text"):
            for case in range(options.cases):
                for name in CONFIGS:
                    yield result(task, length, case, name, options.seed)
    for length in options.lengths[:2]:
        yield kept(length, "keep-0.2", options.seed, 1)
        yield kept(length, "tau-0.005", options.seed, 9)
    drift = [
        1 + 2 * math.exp(-l / 3) + (3 if l == LAYERS - 1 else 0.2 * math.cos(l))
        for l in range(LAYERS)
    ]
    yield {"type": "drift", "layers": [round(d / sum(drift), 6) for d in drift]}
    rng = random.Random(options.seed)
    for step in range(24):
        work = 1 - 0.03 * step
        yield {
            "type": "tune",
            "step": step,
            "layers": list(range(29, 28 - step, -1)),
            "select": {"keep_ratio": 0.2},
            "thin": {"layers": [27, 28], "select": {"keep_ratio": 0.1}} if step > 10 else None,
            "work": round(work, 3),
            "loss": round(0.002 * step * rng.random(), 4),
            "kl": round(0.001 * step**1.4 * rng.uniform(0.8, 1.2), 5),
            "chosen": step == 15,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument(
        "--lengths", default=[1024, 2048, 4096], type=lambda text: [int(n) for n in text.split(",")]
    )
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gpu", default="")
    for line in lines(parser.parse_args()):
        print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    main()
