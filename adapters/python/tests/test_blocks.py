"""Block masks: conversions from and to what others hold, and attention over them against NumPy."""

import dataclasses
import itertools

import numpy as np
import pytest
import reference
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import tokensieve
from tokensieve import ArgumentError, BlockConfig, BlockMask, KeptTokens, SelectConfig

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
# Queries and keys: whole prompts, and suffixes at even and odd offsets.
LENGTHS = [(1, 1), (128, 128), (129, 129), (640, 640), (4200, 4200), (128, 640), (100, 300),
           (300, 4097)]


def visible(queries, keys):
    """Tiles with a causal pair, one pair at a time."""
    first = keys - queries
    return np.array([[128 * c <= min(first + 128 * (t + 1), keys) - 1 for c in
                      range(-(-keys // 128))] for t in range(-(-queries // 128))])


def random_tiles(seed, queries, keys, batch=1, masks=1, density=0.4):
    rng = np.random.default_rng(seed)
    grid = visible(queries, keys)
    return (rng.random((batch, masks, *grid.shape)) < density) & grid


def lengths_of(queries, keys):
    return dict(seqlen_q=queries, seqlen_kv=keys)


@pytest.mark.parametrize("queries, keys", LENGTHS)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_every_form_and_back(queries, keys, density):
    lengths = lengths_of(queries, keys)
    for seed, (batch, masks) in enumerate([(1, 1), (2, 3)]):
        tiles = random_tiles(seed, queries, keys, batch, masks, density)
        mask = BlockMask.from_bool(tiles, **lengths)
        np.testing.assert_array_equal(mask.to_bool(), tiles)
        assert mask.density() == tiles.sum() / (visible(queries, keys).sum() * batch * masks)
        forms = [BlockMask.from_bool(torch.from_numpy(tiles), **lengths),
                 BlockMask.from_csr(*mask.to_csr(), **lengths),
                 BlockMask.from_fa4(*mask.to_fa4(), **lengths),
                 BlockMask.from_flex(mask.to_flex(**lengths))]
        if batch * masks == 1:
            forms.append(BlockMask.from_bsr(*mask.to_bsr(), **lengths))
        for form in forms:
            assert form.tiles == mask.tiles and form.block_size == 128
            np.testing.assert_array_equal(form.bits, mask.bits)


def test_bits_lie_as_the_library_reads_them():
    tiles = np.zeros((1, 1, 40, 40), bool)
    for r, c in ((3, 0), (33, 31), (33, 32), (39, 39)):
        tiles[0, 0, r, c] = True
    bits = BlockMask.from_bool(tiles).bits
    assert bits.dtype == "uint32" and bits.shape == (1, 1, 40, 2)
    assert [tuple(x) for x in np.argwhere(bits)] == [(0, 0, 3, 0), (0, 0, 33, 0), (0, 0, 33, 1),
                                                     (0, 0, 39, 1)]
    assert bits[bits != 0].tolist() == [1, 1 << 31, 1, 1 << 7]


@pytest.mark.parametrize("queries, keys", LENGTHS)
def test_blocks_of_64_give_a_superset(queries, keys):
    rng = np.random.default_rng(3)
    first, rows, columns = keys - queries, -(-queries // 64), -(-keys // 64)
    ends = -(-np.minimum(keys, first + 64 * np.arange(1, rows + 1)) // 64)
    small = (rng.random((1, 2, rows, columns)) < 0.1) & (np.arange(columns) < ends[:, None])
    large = BlockMask.from_bool(small, 64, **lengths_of(queries, keys)).to_bool()
    expected = np.zeros_like(large)
    for _, h, r, c in np.argwhere(small):
        expected[0, h, r // 2, c // 2] = True
    np.testing.assert_array_equal(large, expected)


def test_flex_masks_of_torch():
    """Those that create_block_mask makes: causal, and tile-aligned windows of it."""
    def band(b, h, i, j):
        return (j <= i) & ((i // 128 - j // 128 < 2) | (j < 128))
    mask = BlockMask.from_flex(create_block_mask(band, None, None, 1000, 1000, device="cpu"))
    expected = np.tril(np.ones((8, 8), bool)) & ~np.tril(np.ones((8, 8), bool), -2)
    expected[:, 0] = True
    np.testing.assert_array_equal(mask.to_bool(), expected[None, None])

    def sliding(b, h, i, j):
        return (j <= i) & (i - j < 200)
    with pytest.raises(ArgumentError, match=r"not causal in key block 0 of row block 1 \(batch 0, "
                                            r"head 0\)"):
        BlockMask.from_flex(create_block_mask(sliding, None, None, 1000, 1000, device="cpu"))
    with pytest.raises(ArgumentError, match="above the diagonal"):
        BlockMask.from_flex(create_block_mask(lambda b, h, i, j: i >= 0, None, None, 512, 512,
                                              device="cpu"))
    with pytest.raises(ArgumentError, match=r"BLOCK_SIZE \(64, 64\)"):
        BlockMask.from_flex(create_block_mask(band, None, None, 512, 512, device="cpu",
                                              BLOCK_SIZE=64))
    with pytest.raises(ArgumentError, match="mask is a list"):
        BlockMask.from_flex([1])


def csr(rows, tail=0):
    """indptr and indices of lists."""
    return (np.cumsum([0, *map(len, rows)]), np.array([*itertools.chain(*rows)] + [7] * tail,
                                                      dtype="int64"))


@pytest.mark.parametrize("rows, words", [
    ([[0], [1, 0], [2]], r"row block 1 \(batch 0, head 0\) names key block 0 after 1; allowed: "
                         "ascending"),
    ([[0], [0], [1, 1]], "names key block 1 after 1"),
    ([[0], [-1], [0]], "row block 1 .* names key block -1; allowed: 0 to 1"),
    ([[0], [0], [3]], "row block 2 .* names key block 3; allowed: 0 to 2"),
    ([[0], [2**40], [0]], "names key block 1099511627776; allowed: 0 to 1"),
    ([[1], [0], [0]], "row block 0 .* names key block 1, above the diagonal; allowed: 0 to 0"),
])
def test_bad_lists(rows, words):
    indptr, indices = csr(rows)
    for make in (BlockMask.from_csr, BlockMask.from_bsr):
        with pytest.raises(ArgumentError, match=words):
            make(indptr, indices)
    # The same lists as counts.
    count = np.array([[[len(row) for row in rows]]])
    index = np.zeros((1, 1, 3, 3), dtype="int64")
    for r, row in enumerate(rows):
        index[0, 0, r, :len(row)] = row
    with pytest.raises(ArgumentError, match=words):
        BlockMask.from_fa4(count, index)


def test_bad_forms():
    indptr, indices = csr([[0], [0, 1], [2]])

    def refuse(words, make, *arguments, **more):
        with pytest.raises(ArgumentError, match=words):
            make(*arguments, **more)

    refuse("goes from 1 to 5", BlockMask.from_csr, indptr + 1, indices[:3])
    refuse("from 0 to 4; allowed: from 0 to at most the 3", BlockMask.from_csr, indptr, indices[:3])
    refuse(r"descends in row block 1 \(batch 0, head 0\): 3, then 1", BlockMask.from_csr,
           np.array([0, 3, 1, 4]), indices)
    refuse("indptr has 1 entries", BlockMask.from_csr, indptr[:1], indices)
    refuse(r"indptr has shape \(1, 4\)", BlockMask.from_csr, indptr[None], indices)
    refuse("indptr has 3 dimensions", BlockMask.from_bsr, indptr[None, None], indices[None, None])
    refuse("indptr has dtype float64", BlockMask.from_csr, indptr * 1.0, indices)
    refuse("block_size is 100", BlockMask.from_bsr, indptr, indices, 100)
    refuse("3 x 4 blocks of 128; 500 queries and 500 keys have 4 x 4", BlockMask.from_csr, indptr,
           indices, seqlen_kv=500)
    refuse("seqlen_kv is 0", BlockMask.from_csr, indptr, indices, seqlen_kv=0)
    refuse("seqlen_q is 1.5", BlockMask.from_csr, indptr, indices, seqlen_q=1.5)
    count, index, *full = BlockMask.from_csr(indptr, indices).to_fa4()
    refuse(r"has 4 entries; allowed: 0 to 3", BlockMask.from_fa4, count + 3, index)
    refuse(r"has -1 entries", BlockMask.from_fa4, count - 2, index)
    refuse("mask_block_cnt has shape", BlockMask.from_fa4, count[0], index)
    refuse("neither mask_block_cnt nor full_block_cnt", BlockMask.from_fa4, None, None)
    refuse("full_block_idx is given without full_block_cnt", BlockMask.from_fa4, count, index, None,
           index)
    refuse(r"row block 0 \(batch 0, head 0\) names key block 0, on the diagonal, as a full",
           BlockMask.from_fa4, full[0], full[1], count, index)
    refuse("row block 1 .* names key block 0 in both", BlockMask.from_fa4,
           np.array([[[1, 2, 1]]]), np.array([[[[0, 0], [0, 1], [2, 0]]]]), *full)
    tiles = np.ones((3, 3), bool)
    refuse(r"row block 0 \(batch 0, head 0\) names key block 1, above", BlockMask.from_bool, tiles)
    refuse("blocks has shape", BlockMask.from_bool, tiles[0])
    refuse("3 row blocks and 2 key blocks; give seqlen_q", BlockMask.from_bool, tiles[:, :2])
    two = BlockMask.from_bool(np.zeros((2, 3, 3), bool))
    refuse("2 masks; allowed: one", two.to_bsr)
    refuse("heads is 3; allowed: a multiple of the 2", two.to_flex, 3)
    refuse("block_size 50", BlockMask(np.ones((2, 2)), 50).to_csr)
    refuse("begins at token 0; allowed: 100", two.to_flex, seqlen_q=284, seqlen_kv=384)


def test_any_lists_are_masks_or_errors():
    """Random, unsorted, repeated, negative, huge and cut lists: never another exception, and what
    is taken is what was said."""
    rng = np.random.default_rng(11)
    odd = np.array([-1, -2**63, 2**31, 2**62, 0, 1, 5, 6, 7])
    taken = 0
    for _ in range(600):
        rows = int(rng.integers(1, 6))
        lists = [np.sort(rng.permutation(r + 1)[:rng.integers(0, r + 2)]) for r in range(rows)]
        indptr, indices = csr(lists, tail=int(rng.integers(0, 3)))
        for _ in range(rng.integers(0, 3)):
            target = (indptr, indices)[rng.integers(0, 2)]
            if target.size:
                target[rng.integers(0, target.size)] = rng.choice(odd)
        if rng.random() < 0.2:
            indices = indices[:rng.integers(0, indices.size + 1)]
        try:
            mask = BlockMask.from_csr(indptr, indices)
        except ArgumentError:
            continue
        taken += 1
        expected = np.zeros((rows, rows), bool)
        for r in range(rows):
            listed = indices[indptr[r]:indptr[r + 1]]
            expected[r, listed] = True
            assert expected[r].sum() == listed.size
        np.testing.assert_array_equal(mask.to_bool(), expected[None, None])
    assert 100 < taken < 500


def tensors(seed, queries, keys, batch=1, heads=4, kv_heads=2, dim=32):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, s, h, dim), dtype=np.float32)
            for s, h in ((queries, heads), (keys, kv_heads), (keys, kv_heads))]


def of_tokens(tiles, queries, keys, heads):
    """bool [batch, heads, queries, keys] of tiles, without causality."""
    tiles = tiles.repeat(heads // tiles.shape[1], axis=1)
    return tiles[:, :, np.arange(queries)[:, None] // 128, np.arange(keys) // 128]


@pytest.mark.parametrize("masks", [1, 2, 4])
@pytest.mark.parametrize("queries, keys", [(300, 300), (130, 400)])
def test_attention_over_given_masks(masks, queries, keys):
    q, k, v = tensors(1, queries, keys, batch=2)
    tiles = random_tiles(2, queries, keys, 2, masks, 0.6)
    mask = BlockMask.from_bool(tiles, **lengths_of(queries, keys))
    out, report = tokensieve.attention(q, k, v, block_mask=mask, backend="ref", return_report=True)
    allowed = of_tokens(tiles, queries, keys, 4) & reference.causal(q, k)
    expected, _ = reference.attend(q, k, v, allowed)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    assert report.block_density == pytest.approx(mask.density())
    assert report.work == pytest.approx(mask.density())
    # Torch tensors in the other layout; one mask for both sequences.
    turned = [torch.from_numpy(x).transpose(1, 2) for x in (q, k, v)]
    one = BlockMask.from_bool(tiles[:1], **lengths_of(queries, keys))
    both = tokensieve.attention(*turned, block_mask=one, layout="bhsd", backend="ref")
    np.testing.assert_array_equal(both[0].transpose(0, 1).numpy(), out[0])


def test_attention_over_masks_of_kept_tokens():
    q, k, v = tensors(3, 500, 500)
    select = SelectConfig(budget="keep_ratio", keep_ratio=0.5, min_keep=16, obs_window=64,
                          share="layer", dense_policy="never")
    kept = tokensieve.select_tokens(q, k, select=select)
    count = int(kept.count[0])
    tiles = random_tiles(4, count, count, 1, 4, 0.5)
    mask = BlockMask.from_bool(tiles, **lengths_of(count, count))
    out = tokensieve.attention(q, k, v, select=select, keep=kept, block_mask=mask, backend="ref")
    at = kept.indices[0, 0, :count]
    allowed = np.zeros((1, 4, 500, 500), bool)
    allowed[:, :, at[:, None], at] = (of_tokens(tiles, count, count, 4)
                                      & np.tril(np.ones((count, count), bool)))
    expected, _ = reference.attend(q, k, v, allowed)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    with pytest.raises(ArgumentError, match="without inputs.keep"):
        tokensieve.attention(q, k, v, select=select, backend="ref", block_mask=BlockMask.from_bool(
            random_tiles(4, 500, 500)))


def test_attention_over_scores():
    q, k, v = tensors(5, 300, 300)
    scores = np.random.default_rng(6).random((1, 2, 3, 3), dtype=np.float32)
    blocks = BlockConfig(pattern="scores", share="kv", threshold=0.4)
    more = dict(blocks=blocks, block_scores=scores, backend="ref")
    for thresholds in (None, [0.2, 0.8]):
        limits = np.array([0.4, 0.4] if thresholds is None else thresholds, dtype="float32")
        tiles = (scores > limits[None, :, None, None]) & visible(300, 300)
        expected = tokensieve.attention(q, k, v, backend="ref",
                                        block_mask=BlockMask.from_bool(tiles))
        np.testing.assert_array_equal(
            tokensieve.attention(q, k, v, block_thresholds=thresholds, **more), expected)
    with pytest.raises(ArgumentError, match="block_scores is null"):  # nothing is left of before
        tokensieve.attention(q, k, v, blocks=blocks, backend="ref")
    estimated = tokensieve.estimate_blocks(q, k, **more)
    np.testing.assert_array_equal(estimated.to_bool(), (scores > 0.4) & visible(300, 300))


def test_what_the_pattern_does_not_read_is_refused() -> None:
    q, k, v = tensors(5, 300, 300)
    mask = BlockMask.from_bool(visible(300, 300))
    scores = np.ones((1, 2, 3, 3), dtype="float32")
    for name, value, blocks in (
            ("block_scores", scores, None), ("block_scores", scores, BlockConfig(pattern="flex")),
            ("block_thresholds", [0.5, 0.5], None),
            ("block_thresholds", [0.5, 0.5], BlockConfig(pattern="given")),
            ("block_thresholds", [0.5, 0.5], BlockConfig(pattern="vertical_slash")),
            ("block_sizes", [[30, 50]] * 4, BlockConfig(pattern="flex")),
            ("block_mask", mask, BlockConfig()), ("block_mask", mask, BlockConfig(pattern="flex"))):
        pattern = "none" if blocks is None else blocks.pattern
        with pytest.raises(ArgumentError, match=f"{name} was given, but the block pattern is "
                                                f"{pattern}; give blocks with"):
            tokensieve.attention(q, k, v, blocks=blocks, **{name: value})


def test_thresholds_of_a_plan_whose_estimate_cannot_win() -> None:
    q, k, v = tensors(5, 300, 300)
    blocks = BlockConfig(pattern="flex")  # shorter than min_budget: every tile
    thresholds = [0.5] * q.shape[2]
    np.testing.assert_array_equal(
        tokensieve.attention(q, k, v, blocks=blocks, block_thresholds=thresholds),
        tokensieve.attention(q, k, v))


@pytest.mark.parametrize("blocks", [
    BlockConfig(pattern="flex", min_budget=128), BlockConfig(pattern="pooled", share="kv"),
    BlockConfig(pattern="antidiagonal", threshold=0.5)], ids=lambda blocks: blocks.pattern)
@pytest.mark.parametrize("queries", [1100, 300])
def test_estimates_are_what_attention_visits(blocks, queries):
    q, k, v = tensors(7, queries, 1100, batch=2)
    never = SelectConfig(enabled=False, dense_policy="never")
    mask = tokensieve.estimate_blocks(q, k, blocks=blocks, backend="ref")
    assert mask.num_masks == (2 if blocks.share == "kv" else 4)
    assert mask.tiles == (-(-queries // 128), 9, 1100 - queries)
    assert 0 < mask.density() <= 1
    out, report = tokensieve.attention(q, k, v, blocks=blocks, select=never, backend="ref",
                                       return_report=True)
    np.testing.assert_array_equal(
        tokensieve.attention(q, k, v, block_mask=mask, backend="ref"), out)
    assert report.block_density == pytest.approx(mask.density())
    assert report.stage_ns["estimate"] > 0


@pytest.mark.parametrize("select", [None, SelectConfig(
    budget="keep_ratio", keep_ratio=0.6, min_keep=16, obs_window=64, share="layer")])
def test_compiled_functions_take_blocks(select):
    q, k, v = (torch.from_numpy(x) for x in tensors(14, 900, 900))
    select = dataclasses.replace(select or SelectConfig(enabled=False), dense_policy="never")
    blocks = BlockConfig(pattern="pooled", alpha=1, sink_tiles=1, window_tiles=1, last_tiles=0)

    def function(q, k, v):
        return tokensieve.attention(q, k, v, select=select, blocks=blocks) * 2

    expected, report = tokensieve.attention(q, k, v, select=select, blocks=blocks,
                                            return_report=True)
    assert report.block_density < 1
    torch.testing.assert_close(torch.compile(function, fullgraph=True, backend="eager")(q, k, v),
                               expected * 2, atol=0, rtol=0)


def test_flex_attention_over_the_same_mask():
    q, k, v = tensors(8, 400, 400)
    mask = BlockMask.from_bool(random_tiles(9, 400, 400, 1, 2, 0.6) | np.eye(4, dtype=bool),
                               seqlen_kv=400)
    turned = [torch.from_numpy(x).transpose(1, 2) for x in (q, k, v)]
    out = flex_attention(*turned, block_mask=mask.to_flex(4, seqlen_kv=400), enable_gqa=True)
    expected = tokensieve.attention(*turned, block_mask=mask, layout="bhsd", backend="ref")
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)


def test_packed_sequences():
    q, k, v = tensors(10, 400, 400)
    tiles = random_tiles(11, 300, 300, 2, 1, 0.5)
    mask = BlockMask.from_bool(tiles, seqlen_kv=300)
    begins = np.array([0, 300, 400], dtype="int32")
    out = tokensieve.attention_varlen(q[0], k[0], v[0], begins, begins, block_mask=mask,
                                      backend="ref")
    for b, part in enumerate((slice(0, 300), slice(300, 400))):
        own = BlockMask.from_bool(tiles[b:b + 1] if b == 0 else tiles[b:, :, :1, :1])
        expected = tokensieve.attention(*(x[:, part] for x in (q, k, v)), block_mask=own,
                                        backend="ref")
        np.testing.assert_array_equal(out[part], expected[0])


def test_errors_of_calls():
    q, k, v = tensors(12, 300, 300)
    mask = BlockMask.from_bool(random_tiles(13, 300, 300, 1, 4))

    def refuse(words, mask, **more):
        with pytest.raises(ArgumentError, match=words):
            tokensieve.attention(q, k, v, backend="ref", block_mask=mask, **more)

    refuse("block_mask is a list", [1])
    refuse("3 masks; allowed: one for each of 4 query heads, of 2 kv heads, or 1",
           BlockMask.from_bool(np.zeros((3, 3, 3), bool)))
    refuse("for batch 1, 4 masks, 4 x 4 tiles, the first row at token 0; the call has batch 1, 4 "
           "masks, 3 x 3 tiles", BlockMask.from_bool(random_tiles(13, 500, 500, 1, 4)))
    refuse("for batch 2", BlockMask.from_bool(random_tiles(13, 300, 300, 2, 4)))
    refuse("block_size 64", BlockMask(np.ones((5, 5)), 64))
    refuse("the block pattern is flex; give blocks with pattern given", mask,
           blocks=BlockConfig(pattern="flex"),
           select=SelectConfig(enabled=False, dense_policy="never"))
    refuse("blocks is a dict", mask, blocks={})
    with pytest.raises(ArgumentError, match="this one's pattern is given"):
        tokensieve.estimate_blocks(q, k, blocks=BlockConfig(pattern="given"), backend="ref")
    with pytest.raises(ArgumentError, match="without select"):
        tokensieve.attention(q, k, v, block_mask=mask, backend="ref", keep=KeptTokens(
            np.zeros((1, 1, 1), "int32"), np.ones(1, "int64")))


def test_settings():
    blocks = BlockConfig(pattern="flex", gamma=1)
    assert blocks == BlockConfig(**{"pattern": "flex", "gamma": 1.0})
    assert hash(blocks) != hash(BlockConfig()) and "flex" in blocks.text
    for change, words in [(dict(gamma=1.5), r"gamma is 1.5; allowed: a number, \[0, 1\]"),
                          (dict(gamma=float("nan")), "gamma is nan"),
                          (dict(stride=24), "stride is 24; allowed: an integer, 8, 16 or 32"),
                          (dict(pattern="x"), "none, given, scores, flex, pooled, antidiagonal, "
                                               "vertical_slash"),
                          (dict(window_tiles=0), "window_tiles is 0"),
                          (dict(min_budget=-1), "min_budget is -1")]:
        with pytest.raises(ArgumentError, match=words):
            BlockConfig(**change)
