#!/usr/bin/env python3
"""Makes the golden case of a chunk of a prompt (README.md), in float64 from docs/chunks.md and
docs/method.md, without this library.

    python3 tests/golden/make_chunk.py tests/golden/local_chunk.safetensors
"""

import json
import sys

import numpy as np

HEADS, KV_HEADS, TOKENS, QUERIES, DIM = 4, 2, 400, 140, 64
WINDOW, POOL, KEEP_RATIO, MIN_KEEP = 16, 5, 0.3, 16
LOCAL_WINDOW, SINKS, BLOCK = 64, 20, 64
PREFIX, FIRST, GROUP = TOKENS - WINDOW, TOKENS - QUERIES, HEADS // KV_HEADS


def bf16_bits(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def doubles(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def inputs(random):
    """Bits of q, k, v; some tokens, before and inside the chunk, draw more than others."""
    direction = random.standard_normal((KV_HEADS, 1, DIM))
    heavy = random.random((KV_HEADS, TOKENS, 1)) < 0.15
    q = random.standard_normal((HEADS, QUERIES, DIM)) + 0.4 * direction.repeat(GROUP, axis=0)
    k = random.standard_normal((KV_HEADS, TOKENS, DIM)) + 0.6 * heavy * direction
    v = random.standard_normal((KV_HEADS, TOKENS, DIM))
    return bf16_bits(q), bf16_bits(k), bf16_bits(v)


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def token_score(q, k):
    """Mean attention of the newest rows to every token of the prefix."""
    score = np.zeros((HEADS, PREFIX))
    for head in range(HEADS):
        for position in range(PREFIX, TOKENS):
            logits = k[head // GROUP, :position + 1] @ q[head, position - FIRST] / np.sqrt(DIM)
            score[head] += softmax(logits)[:PREFIX] / WINDOW
    return score


def pool(score):
    padded = np.pad(score, ((0, 0), (POOL // 2, POOL // 2)))
    return np.mean([padded[:, i:i + PREFIX] for i in range(POOL)], axis=0)


def kept_tokens(pooled, keep):
    """A set for every kv head: its best tokens, and the newest."""
    sets = []
    for group in pooled.reshape(KV_HEADS, GROUP, PREFIX).mean(axis=1):
        order = np.argsort(-group, kind="stable")
        gap = (group[order[keep - 1]] - group[order[keep]]) / group[order[keep]]
        assert gap > 1e-4, f"two scores are a near tie: {gap}"
        sets.append(np.sort(np.concatenate([order[:keep], np.arange(PREFIX, TOKENS)])))
    return sets


def visible(position, kept):
    begin = max(0, position // BLOCK * BLOCK - LOCAL_WINDOW)
    keys = set(range(min(SINKS, begin))) | set(range(begin, position + 1))
    if position in kept:
        keys |= {key for key in kept if key < begin}
    return sorted(keys)


def attend(q, k, v, sets):
    """The rows of the chunk, and how many (query, key) pairs they are."""
    out, pairs = np.zeros((HEADS, QUERIES, DIM)), 0
    for head in range(HEADS):
        group = head // GROUP
        kept = set(sets[group].tolist())
        for row in range(QUERIES):
            keys = visible(FIRST + row, kept)
            out[head, row] = softmax(k[group, keys] @ q[head, row] / np.sqrt(DIM)) @ v[group, keys]
            pairs += len(keys)
    return out, pairs


def write(path, metadata, tensors):
    """A safetensors file of (name, dtype, array)."""
    header, data = {"__metadata__": metadata}, b""
    for name, dtype, array in tensors:
        begin = len(data)
        data += np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data)


def main(path):
    bits = inputs(np.random.default_rng(20261128))
    q, k, v = (doubles(x) for x in bits)
    score = token_score(q, k)
    pooled = pool(score)
    layer = pooled.mean(axis=0)
    keep = max(MIN_KEEP, int(KEEP_RATIO * PREFIX))
    sets = kept_tokens(pooled, keep)
    out, pairs = attend(q, k, v, sets)
    write(path,
          {"window": str(WINDOW), "pool": str(POOL), "keep_ratio": str(KEEP_RATIO),
           "min_tokens": str(MIN_KEEP), "fill": "local", "share": "kv",
           "local_window": str(LOCAL_WINDOW), "sinks": str(SINKS), "drop": "0",
           "keep": str(keep), "pairs": str(pairs)},
          [("q", "BF16", bits[0]), ("k", "BF16", bits[1]), ("v", "BF16", bits[2]),
           ("score", "F32", score.astype(np.float32)), ("pooled", "F32", pooled.astype(np.float32)),
           ("layer", "F32", (layer / (layer.sum() + 1e-8)).astype(np.float32)),
           ("indices", "I32", np.repeat(sets, GROUP, axis=0).astype(np.int32)),
           ("output", "F16", out.astype(np.float16))])


if __name__ == "__main__":
    main(sys.argv[1])
