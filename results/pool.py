#!/usr/bin/env python3
"""pool.py RUN.jsonl...: results of several seeds as one, by docs/evaluation.md, "Statistics".

A cell is a task at a length, over all files. `tokensieve report` does the same for one seed.
"""

import collections
import json
import random
import statistics
import sys

RESAMPLES = 10_000


def estimate(strata, form):
    """Mean of all values and its 95 % percentile bootstrap interval, resampled within each stratum."""
    strata = [values for values in strata if values]
    count = sum(map(len, strata))
    if not count:
        return "-"
    draw = random.Random(1)
    means = sorted(sum(sum(draw.choices(values, k=len(values))) for values in strata) / count
                   for _ in range(RESAMPLES))
    mean = sum(map(sum, strata)) / count
    low, high = (means[int(RESAMPLES * share)] for share in (0.025, 0.975))
    return f"{mean:{form}} ({low:{form}} to {high:{form}}; {count})"


def follow_up(result):
    return statistics.fmean(turn["score"] for turn in result["follow_ups"])


def main():
    cases = collections.defaultdict(dict)
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            for line in map(json.loads, file):
                if line["type"] == "result":
                    cases[path, line["task"], line["length"], line["case"]][line["config"]] = line
    cells = collections.defaultdict(list)
    for (_, task, length, _), by_config in cases.items():
        cells[length, task].append(by_config)
    lengths = sorted({length for length, _ in cells})
    configs = list(dict.fromkeys(name for case in cases.values() for name in case))
    for length in [*lengths, "all"]:
        for name in configs[1:]:
            points, later, kl = [], [], []
            for (at, task), found in cells.items():
                if length not in (at, "all"):
                    continue
                pairs = [(case["dense"], case[name]) for case in found if name in case]
                if task == "text":
                    kl.append([other["metrics"]["kl"] for _, other in pairs])
                    continue
                if statistics.fmean(case["dense"]["score"] for case in found) >= 0.5:
                    points.append([100 * (dense["score"] - other["score"])
                                   for dense, other in pairs])
                later.append([100 * (follow_up(dense) - follow_up(other))
                              for dense, other in pairs if dense.get("follow_ups")])
            print(f"{length} {name}: points lost {estimate(points, '.1f')}, follow-ups "
                  f"{estimate(later, '.1f')}, KL {estimate(kl, '.4f')}")


if __name__ == "__main__":
    main()
