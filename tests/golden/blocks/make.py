#!/usr/bin/env python3
"""Writes blocks_1100.safetensors and .json: which tiles the estimators of block masks choose, in
float64 numpy, written from the papers' formulas and apart from src/ref. Inputs come from an integer
hash (make_inputs) that verify/block_inputs.cc repeats, so the file holds masks only, and of
MInference columns and distances.

    python3 make.py        needs numpy

One head at a time: q, k are [n, dim]; a mask is bool [row tiles, key tiles] of 128 x 128.
"""
import hashlib
import json
import math
import pathlib
import struct

import numpy as np

TILE = 128
N, Q_HEADS, KV_HEADS, SEED = 1100, 8, 2, 1

# alpha; sinks, window and last row tiles
POOLED = {"a0.9": (0.9,), "a0.3_s1_w1_l1": (0.3, 1, 1, 1), "a0.6_s0_w2_l0": (0.6, 0, 2, 0)}


# ---- estimators

def tiles_of(n):
    return -(-n // TILE)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def causal(logits, n):
    position = np.arange(n - len(logits), n)[:, None]
    return np.where(np.arange(n)[None, :] <= position, logits, -np.inf)


def mean_pool(x):
    return np.stack([x[i:i + TILE].mean(axis=0) for i in range(0, len(x), TILE)])


def sum_pool(x):
    return np.pad(x, (0, tiles_of(len(x)) * TILE - len(x))).reshape(-1, TILE).sum(axis=1)


def top(values, count):
    return np.argsort(-values, kind="stable")[:count]


def flexprefill(q, k, gamma, tau, min_budget):
    n, dim = k.shape
    tiles = tiles_of(n)
    least = max(1, tiles_of(min_budget))
    lower = np.tri(tiles, dtype=bool)
    if n <= TILE * max(2, least):
        return lower
    probe = q[n - TILE:] / math.sqrt(dim)
    p = softmax(causal(probe @ k.T, n)) / TILE
    vertical = p.sum(axis=0)
    slash = np.zeros(n)  # by distance
    for i in range(TILE):
        slash[:n - TILE + i + 1] += p[i, n - TILE + i::-1]

    def budget(lines):
        covering = 1 + int((np.cumsum(-np.sort(-lines)) <= gamma).sum())
        return min(max(covering // TILE + 1, least), tiles)

    num_vertical, num_slash = budget(vertical), budget(slash)
    vertical, slash = sum_pool(vertical), sum_pool(slash[::-1])[::-1]  # by tile distance
    mean_k = mean_pool(k)
    estimate = softmax(probe.mean(axis=0) @ mean_k.T)
    middle = (estimate + vertical) / 2
    divergence = (estimate * np.log(estimate / middle) + vertical * np.log(vertical / middle)).sum() / 2
    query_aware = math.sqrt(max(0, divergence)) < tau
    if query_aware:
        num_vertical = num_slash = least
    vertical[0] = slash[0] = np.inf
    row, column = np.indices((tiles, tiles))
    mask = np.isin(column, top(vertical, num_vertical)) | np.isin(row - column, top(slash, num_slash))
    if query_aware:
        logits = mean_pool(q) / math.sqrt(dim) @ mean_k.T
        shares = softmax(np.where(lower, logits, -np.inf)).reshape(-1)
        order = np.argsort(-shares, kind="stable")
        mask.reshape(-1)[order[np.cumsum(shares[order]) <= gamma * tiles]] = True
    return mask & lower


def xattention_scores(q, k, stride):
    n, dim = k.shape
    tiles, per_tile = tiles_of(n), TILE // stride
    folded = np.zeros((2, tiles * TILE, dim))
    folded[0, :n], folded[1, :n] = q, k
    folded = folded.reshape(2, -1, stride, dim)
    flat_q = folded[0][:, ::-1].reshape(-1, stride * dim)  # query S-1-i of a group meets key i
    logits = flat_q @ folded[1].reshape(-1, stride * dim).T / math.sqrt(dim) / stride
    p = softmax(np.where(np.tri(len(logits), dtype=bool), logits, -np.inf))
    p[-(-n // stride):] = 0  # groups of padding
    return p.reshape(tiles, per_tile, tiles, per_tile).sum(axis=(1, 3))


def xattention(q, k, stride, threshold):
    scores = xattention_scores(q, k, stride)
    mask = np.eye(len(scores), dtype=bool)
    mask[:, 0] = True
    for i, row in enumerate(scores):
        mass = row[mask[i]].sum()
        for j in np.argsort(-row, kind="stable"):
            if mass >= threshold * row.sum():
                break
            if not mask[i, j]:
                mask[i, j] = True
                mass += row[j]
    return mask


def pooled(heads, k, own, alpha, sinks=2, window=4, last=2):
    """FlashPrefill V1 (`own`: one head) and V2 (heads of a group, 128 tokens a row tile)."""
    n, dim = k.shape
    tiles, mean_k = tiles_of(n), mean_pool(k)
    mask = np.zeros((tiles, tiles), dtype=bool)
    j = np.arange(tiles)
    for i in range(tiles):
        rows = np.arange(i * TILE, min(n, (i + 1) * TILE))
        # That counts for a tile.
        first_row = np.minimum(j * TILE + TILE, n) - 1 if own else j * TILE
        scored = j <= i if own else j < (rows[-1] + 1) // TILE
        logits = np.concatenate([q[rows] @ mean_k.T / math.sqrt(dim) for q in heads])
        seen = (np.tile(rows, len(heads))[:, None] >= first_row) & scored
        energy = np.where(seen, np.exp(logits - logits[seen].max(initial=-1e30)), 0).sum(axis=0)
        strong = scored & (energy >= alpha * energy.max())
        mask[i] = (strong | (j < sinks) | (i - j < window) | (i >= tiles - last)) & (j <= i)
    return mask


def minference_lines(q, k, num_vertical, num_slash):
    """Columns and distances, ascending."""
    n, dim = k.shape
    p = softmax(causal(q[n - 64:] @ k.T / math.sqrt(dim), n))
    vertical = p.sum(axis=0)
    slash = np.zeros(n)  # by distance
    for i in range(64):
        slash[:n - 64 + i + 1] += p[i, n - 64 + i::-1]
    vertical[:30] = slash[:100] = np.inf
    return (np.sort(top(vertical, min(n, max(num_vertical, 30)))).astype(np.int32),
            np.sort(top(slash, min(n, max(num_slash, 50)))).astype(np.int32))


# ---- inputs

def mix(x):
    """splitmix64 of a uint64 array."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def hashed(seed, *axes):
    x = mix(np.asarray([seed], dtype=np.uint64))
    for axis in axes:
        x = mix(x ^ mix(np.asarray(axis, dtype=np.uint64)))
    return x


def noise(*coordinates):
    x = hashed(*coordinates)
    fields = sum((x >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4))
    return (fields.astype(np.float64) - 131070.0) * (0.75 / 32768.0)


def sign(*coordinates):
    return (hashed(*coordinates) & np.uint64(1)).astype(np.float64) * 2 - 1


def round_bf16(x):
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def make_inputs(n, q_heads, kv_heads, seed):
    sinks, vertical, slash, local, topic = (
        slice(0, 8), slice(8, 24), slice(24, 72), slice(72, 104), slice(104, 128))
    # Of q by head % 4: a-shape, columns, slashes, topic blocks.
    weights = ((2.5, 1.5, 1.5, 0.5), (0.5, 2.0, 0.5, 0.25), (0.25, 0.5, 2.25, 0.0),
               (2.0, 1.0, 1.0, 0.5), (0.25, 0.25, 0.0, 2.5), (1.0, 1.0, 0.75, 0.25))
    j, d = np.arange(n)[:, None], np.arange(128)[None, :]
    length = np.array([8, 16, 32, 64])[np.arange(32) % 4]
    codes, q, k, v = [], [], [], []
    for h in range(kv_heads):
        at = hashed(11, np.arange(8), h) % np.uint64(n - 512)
        columns = np.unique(np.concatenate([at, at[:4] + np.uint64(1)])).astype(np.int64) + 64
        topics = hashed(seed + 5, h, j // 256) % np.uint64(6)
        codes.append((sign(seed + 6, h, d[:, :16]), sign(seed + 2, h, j, d[:, :48]),
                      sign(seed + 3, h, (j + 5 * np.arange(32)) // length, d[:, :32]),
                      sign(seed + 4, h, topics, d[:, :24])))
        x = noise(seed, 1, h, j, d)
        x[:4, sinks] += 6.25
        x[columns, vertical] += 3.0 * codes[h][0]
        x[:, slash] += codes[h][1]
        x[:, local] += codes[h][2]
        x[:, topic] += 1.5 * codes[h][3]
        k.append(round_bf16(x))
        v.append(round_bf16(noise(seed, 2, h, j, d)))
    for h in range(q_heads):
        w = [values[h % 4] for values in weights]
        code = codes[h * kv_heads // q_heads]
        x = w[5] * noise(seed, 0, h, j, d)
        x[:, sinks] += w[0]
        x[:, vertical] += w[1] * code[0]
        for i in range(2):
            distance = int(hashed(12, i, h)[0] % np.uint64(n // 2)) + 300
            x[distance:, slash] += w[2] * code[1][:max(0, n - distance)]
        x[:, local] += w[3] * code[2]
        x[:, topic] += w[4] * code[3]
        q.append(round_bf16(x))
    return np.stack(q), np.stack(k), np.stack(v)


# ---- the file

def masks_of(q, k):
    """Of every estimator with masks per head; k as q."""
    def of_heads(estimator):
        return np.stack([estimator(*pair) for pair in zip(q, k)])

    masks = {}
    for gamma, tau, budget in ((0.9, 0.1, 128), (0.6, 0, 256), (0.7, 2, 128), (0.95, 0.1, 1024)):
        masks[f"flexprefill_g{gamma}_t{tau}_b{budget}"] = of_heads(
            lambda q, k: flexprefill(q, k, gamma, tau, budget))
    for stride, threshold in ((8, 0.8), (16, 0.9), (32, 0.5)):
        masks[f"xattention_s{stride}_t{threshold}"] = of_heads(
            lambda q, k: xattention(q, k, stride, threshold))
    for name, values in POOLED.items():
        masks[f"flashprefill1_{name}"] = of_heads(lambda q, k: pooled([q], k, True, *values))
    return masks


def lines_of(q, k):
    n = len(q[0])
    budget = int(0.1 * n)
    sizes = {"v60_s260": (60, 260), "v200_s70": (200, 70),
             "adaptive0.1": (int(0.2 * budget), int(0.8 * budget))}
    lines = {}
    for name, counts in sizes.items():
        heads = [minference_lines(*pair, *counts) for pair in zip(q, k)]
        for i, kind in enumerate(("verticals", "distances")):
            lines[f"minference_{name}.{kind}"] = np.stack([head[i] for head in heads])
    return lines


def main():
    inputs = make_inputs(N, Q_HEADS, KV_HEADS, SEED)
    q, k, _ = (x.astype(np.float64) for x in inputs)
    group = Q_HEADS // KV_HEADS
    k_of_q = np.repeat(k, group, axis=0)
    tensors = {f"{name}.mask": mask for name, mask in masks_of(q, k_of_q).items()}
    for name, values in POOLED.items():
        tensors[f"flashprefill2_{name}.mask"] = np.stack(
            [pooled(q[h * group:(h + 1) * group], k[h], False, *values) for h in range(KV_HEADS)])
    kept = np.stack([np.concatenate([np.sort(np.argsort(hashed(99, h, np.arange(N - 128)))[:600]),
                                     np.arange(N - 128, N)]) for h in range(Q_HEADS)])
    tensors["tokens.indices"] = kept.astype(np.int32)
    compact = ([q[h][kept[h]] for h in range(Q_HEADS)], [k_of_q[h][kept[h]] for h in range(Q_HEADS)])
    tensors |= lines_of(q, k_of_q)
    tensors |= {f"tokens_{name}.mask": mask for name, mask in masks_of(*compact).items()}
    tensors |= {f"tokens_{name}": x for name, x in lines_of(*compact).items()}

    header, data = {}, b""
    for name, x in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        raw = x.tobytes()
        header[name] = {"dtype": "BOOL" if x.dtype == bool else "I32", "shape": list(x.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = pathlib.Path(__file__).parent / f"blocks_{N}"
    path.with_suffix(".safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    sha = hashlib.sha256(b"".join(x.tobytes() for x in inputs)).hexdigest()
    about = {"n": N, "heads": [Q_HEADS, KV_HEADS], "seed": SEED, "rounding": "exact",
             "inputs_sha256": sha}
    path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
