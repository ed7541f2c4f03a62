#!/usr/bin/env python3
"""What chunked prefill does to answers: rules for chunks x chunk lengths, on one GPU.

    tokensieve eval smollm2-128k --tasks single_needle,multi_key,qa,text --lengths 8192,32768 \\
        --cases 4 --seed 301 --config sparse --config none --write-cases cases.jsonl
    python bench/chunk_rules.py cases.jsonl --chunks 2048 8192 0 -o run.jsonl
    tokensieve report run.jsonl

Rules: `kept` (docs/chunks.md; the library's), `all` (every query of a chunk against the tokens kept
before it, with the keep ratios that give the work of `kept`), `few` (as `kept`, with 32 observers
in place of the profile's), `spread` (as `few`, but they are 8 groups of 4 rows, evenly spread over
the chunk; the sets are chosen here and given to the library), `none` (no selection: sinks, a wider
window; whole prompts only). A chunk of 0 tokens is the whole prompt, where only `kept` and `none`
run. The profile is that of the cases' configuration `sparse`. The same command goes on where it was
stopped.
"""

import argparse
import contextlib
import copy
import dataclasses
import time

import torch

import tokensieve
from tokensieve import _attend, evaluate
from tokensieve._run_file import Cases, Resolved, Results, key_of
from tokensieve.hf import forward


@contextlib.contextmanager
def all_queries(chunk):
    """Inside, chunks after the first keep all queries, as tokensieve 0.1 did."""
    choose = forward._choose

    def changed(call, profile, queries, keys):
        choice = choose(call, profile, queries, keys)
        if not chunk or not choice.select.enabled or queries == keys:
            return choice
        return dataclasses.replace(choice, select=dataclasses.replace(
            choice.select, queries="all", protect_first=max(4, choice.select.protect_first)))

    forward._choose = changed
    try:
        yield
    finally:
        forward._choose = choose


RULES = ["kept", "all", "few", "spread", "none"]
OBSERVERS, GROUPS = 32, 8


def spread_sets(query, key, select):
    """One set for all heads, chosen by groups of rows spread over the chunk."""
    heads, rows, tokens = query.shape[1], query.shape[2], key.shape[2]
    each = OBSERVERS // GROUPS
    ends = [rows * (group + 1) // GROUPS for group in range(GROUPS)]
    observers = torch.tensor([row for end in ends for row in range(end - each, end)],
                             device=query.device)
    groups = heads // key.shape[1]
    q = query[0, :, observers].float().unflatten(0, (-1, groups))
    logits = torch.einsum("kgrd,knd->kgrn", q, key[0].float()) * query.shape[3] ** -0.5
    visible = torch.arange(tokens, device=q.device) <= (tokens - rows + observers)[:, None]
    score = logits.masked_fill_(~visible, float("-inf")).softmax(dim=-1).mean(dim=(0, 1, 2))
    prefix = tokens - OBSERVERS
    pooled = torch.nn.functional.avg_pool1d(score[None, :prefix], select.pool_width, stride=1,
                                            padding=select.pool_width // 2)[0]
    keep = min(prefix, max(int(select.keep_ratio * prefix), select.min_keep))
    chosen = pooled.topk(keep).indices.sort().values
    newest = torch.arange(prefix, tokens, device=q.device)
    indices = torch.cat([chosen, newest]).int()[None, None]
    return tokensieve.KeptTokens(indices, torch.tensor([indices.shape[2]], device=q.device)), keep


@contextlib.contextmanager
def spread_observers():
    """Inside, calls get the sets of spread_sets."""
    attend = _attend.attend

    def changed(q, k, v, settings, extras, **kwargs):
        select = settings.select
        if select is not None and select.enabled:
            sets, keep = spread_sets(q, k, select)
            settings = settings.but(select=dataclasses.replace(
                select, budget="keep_count", keep_count=keep, min_keep=0, obs_window=OBSERVERS,
                dense_policy="never"))
            extras = extras._replace(keep=sets)
        return attend(q, k, v, settings, extras, **kwargs)

    _attend.attend = changed
    try:
        yield
    finally:
        _attend.attend = attend


def work_of_all(select, tokens, chunk):
    """Work of a layer that keeps all queries of a chunk, the first chunk apart."""
    ratio, pairs = select.keep_ratio, 0.0
    for start in range(chunk, tokens, chunk):
        rows = min(chunk, tokens - start)
        pairs += rows * (rows + 1) / 2 + ratio * rows * start
        pairs += (1 - ratio) * min(rows, select.obs_window) * start
    return pairs / (tokens * (tokens + 1) / 2)


def mean_work(profile, layers, tokens, chunk, factor):
    scaled = scale(profile, factor)
    return sum(work_of_all(scaled.select_of(i), tokens, chunk) if i in profile.sparse_layers
               else 1.0 for i in range(layers)) / layers


def scale(profile, factor):
    return profile.map_select(lambda select: dataclasses.replace(
        select, keep_ratio=min(1.0, select.keep_ratio * factor)))


def equal_work(profile, layers, tokens, chunk, work):
    """The profile whose chunks with all queries do so much work, or nearly."""
    low, high = 0.01, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        if mean_work(profile, layers, tokens, chunk, middle) < work:
            low = middle
        else:
            high = middle
    return scale(profile, low)


def name_of(rule, chunk):
    return f"{rule} {chunk or 'whole'}"


def run(runner, cases, chosen, pairs, results):
    layers = runner.model.config.num_hidden_layers
    begin = time.perf_counter()
    for count, case in enumerate(chosen):
        tokens, is_text = len(case["prompt"]), "continuation" in case
        if all(key_of(case, name_of(*pair)) in results.done for pair in pairs):
            continue
        sparse = cases.resolved["sparse", tokens]
        line, dense = runner.run(case, Resolved())
        add(results, case, "dense", line, dense, dense)
        work = {}
        for rule, chunk in pairs:
            resolved = dataclasses.replace(
                cases.resolved["none", tokens] if rule == "none" else sparse, chunk=chunk)
            profile, how = resolved.profile, contextlib.nullcontext()
            if rule == "all":
                profile = equal_work(profile, layers, tokens, chunk, work[chunk])
                how = all_queries(chunk)
            if rule in ("few", "spread"):
                profile = profile.map_select(
                    lambda select: dataclasses.replace(select, obs_window=OBSERVERS))
            if rule == "spread":
                how = spread_observers()
            with how:
                line, logits = runner.run(case, dataclasses.replace(resolved, profile=profile))
            work.setdefault(chunk, line["work"])
            add(results, case, name_of(rule, chunk), line, dense, logits)
        print(f"{count + 1} of {len(chosen)}  {case['task']} {case['length']}  "
              f"{time.perf_counter() - begin:.0f} s", flush=True)


def add(results, case, name, line, dense, logits):
    if key_of(case, name) in results.done:
        return
    if logits is not None:
        line["metrics"] = evaluate.compare(dense, logits, torch.tensor(case["continuation"]))
    about = {key: case[key] for key in ("task", "length", "case", "filler", "depth") if key in case}
    results.add({"type": "result", **about, "config": name, **line})


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", metavar="CASES.jsonl")
    parser.add_argument("--chunks", nargs="+", type=int, default=[2048, 8192, 16384, 0])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--lengths", nargs="+", type=int)
    parser.add_argument("--part", metavar="K/N", default="1/1", type=evaluate._part,
                        help="every N-th case, from the K-th on, for processes side by side")
    parser.add_argument("--file", help="the model's GGUF file")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("-o", "--output", default="chunk_rules.jsonl")
    options = parser.parse_args()
    cases = Cases(options.cases)
    first, step = options.part
    chosen = [case for case in cases.cases
              if case["length"] in (options.lengths or [case["length"]])][first - 1::step]
    pairs = [(rule, chunk) for chunk in options.chunks for rule in RULES
             if rule in options.rules and (rule == "kept" or (rule == "none") != bool(chunk))]
    model, tokenizer = tokensieve.hf.load("smollm2-128k", file=options.file,
                                          device=options.device)
    header = copy.deepcopy(cases.header)
    base = {config["name"]: config for config in header["configs"]}
    header["configs"] = [base["dense"]] + [
        {**base["none" if rule == "none" else "sparse"], "name": name_of(rule, chunk)}
        for rule, chunk in pairs]
    cases.header = header
    names = [config["name"] for config in header["configs"]]
    results = Results(options.output, evaluate._header(cases, names, model.device))
    runner = evaluate.Runner(model, tokenizer)
    short = {"prompt": chosen[0]["prompt"][:6000], "continuation": [0, 0]}
    runner.run(short, cases.resolved["sparse", len(chosen[0]["prompt"])])  # compiles, allocates
    run(runner, cases, chosen, pairs, results)
    print(f"written to {options.output}; `tokensieve report {options.output}` shows it")


if __name__ == "__main__":
    main()
