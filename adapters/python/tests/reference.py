"""docs/method.md in float64 NumPy, as plainly as it can be said. Tensors are [B, S, H, D]."""

import numpy as np


def attend(q, k, v, allowed, sm_scale=None, softcap=0.0, sinks=None):
    """Attention where allowed [B, Hq, Sq, Skv] is True; rows without a key are 0."""
    q, k, v = (np.asarray(x, dtype=np.float64).transpose(0, 2, 1, 3) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat(group, axis=1), v.repeat(group, axis=1)
    logits = q @ k.swapaxes(2, 3) * (sm_scale or q.shape[3] ** -0.5)
    if softcap:
        logits = softcap * np.tanh(logits / softcap)
    weights = np.where(allowed, np.exp(logits), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(np.asarray(sinks, dtype=np.float64)).reshape(1, -1, 1, 1)
    probabilities = weights / np.where(total == 0, 1.0, total)
    return (probabilities @ v).transpose(0, 2, 1, 3), probabilities


def causal(q, k):
    """Aligned bottom right."""
    rows = np.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
    allowed = np.arange(k.shape[1])[None] <= rows
    return np.broadcast_to(allowed, (q.shape[0], q.shape[2], *allowed.shape))


def kept(q, k, select):
    """Kept positions [batch][set], newest obs_window included."""
    window, prefix = select.obs_window, k.shape[1] - select.obs_window
    newest = q[:, -window:]
    _, probabilities = attend(newest, k, k, causal(newest, k))
    scores = probabilities.mean(axis=2)[:, :, :prefix]
    pool = np.ones(select.pool_width) / select.pool_width
    smooth = np.apply_along_axis(lambda row: np.convolve(row, pool, "same"), 2, scores)
    if select.share == "kv":
        smooth = smooth.reshape(q.shape[0], k.shape[2], -1, prefix).mean(axis=2)
    elif select.share == "layer":
        smooth = smooth.mean(axis=1, keepdims=True)
    assert select.budget == "keep_ratio"
    keep = max(select.min_keep, int(select.keep_ratio * prefix))
    newest = np.arange(prefix, k.shape[1])
    return [[np.concatenate([np.sort(np.argsort(-row, kind="stable")[:keep]), newest])
             for row in sequence] for sequence in smooth]


def allowed_rows(q, k, select, sets):
    """Which keys each row of a sparse layer sees, [B, Hq, S, S]."""
    batch, seq, heads, _ = q.shape
    allowed = np.zeros((batch, heads, seq, seq), dtype=bool)
    row, key = np.arange(seq)[:, None], np.arange(seq)[None]
    start = np.maximum(0, row // 64 * 64 - select.local_window)
    local = ((key < select.sinks) | (key >= start)) & (key <= row)
    for b in range(batch):
        for h in range(heads):
            is_kept = np.zeros(seq, dtype=bool)
            is_kept[sets[b][h * len(sets[b]) // heads]] = True
            both = is_kept[:, None] & is_kept[None] & (key <= row)
            if select.fill == "local":
                both = (both & (key >= select.sinks) & (key < start)) | local
            allowed[b, h] = both
    return allowed
