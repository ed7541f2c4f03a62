"""vertical_slash: columns and tiles of distances, with a head's own sizes."""

import dataclasses

import numpy as np
import pytest
import tokensieve
from tokensieve import ArgumentError, BlockConfig, SelectConfig

NEVER = SelectConfig(enabled=False, dense_policy="never")
TOKENS = 700


@pytest.fixture(scope="module")
def qkv():
    rng = np.random.default_rng(20)
    return [rng.standard_normal((1, TOKENS, heads, 32), dtype=np.float32) for heads in (4, 2, 2)]


def run(qkv, blocks, **more):
    return tokensieve.attention(*qkv, blocks=blocks, select=NEVER, return_report=True, **more)


# Distances 0 to 99 are two tiles a row tile; with every distance no columns are left.
@pytest.mark.parametrize("sizes", [None, [[30, 50], [40, 700], [35, 100], [0, 0]]])
def test_the_cpu_gives_what_the_oracle_gives(qkv, sizes):
    blocks = BlockConfig(pattern="vertical_slash", verticals=40, slashes=100)
    out, report = run(qkv, blocks, block_sizes=sizes, backend="cpu")
    expected, of_oracle = run(qkv, blocks, block_sizes=sizes, backend="ref")
    np.testing.assert_allclose(out, expected, atol=2e-5)
    assert report.block_density == pytest.approx(of_oracle.block_density)
    # Columns come on top of the tiles that a mask can hold.
    mask = tokensieve.estimate_blocks(*qkv[:2], blocks=blocks, block_sizes=sizes, backend="cpu")
    assert mask.density() < report.block_density < 1


def test_own_sizes_are_those_of_a_config(qkv):
    blocks = BlockConfig(pattern="vertical_slash", verticals=60, slashes=100)
    plain, _ = run(qkv, blocks)
    fewer, report = run(qkv, dataclasses.replace(blocks, verticals=40))
    out, again = run(qkv, blocks, block_sizes=np.array([[40, 100]] * 4))
    np.testing.assert_array_equal(out, fewer)
    assert again.block_density == report.block_density and not np.array_equal(out, plain)
    ratio, _ = run(qkv, dataclasses.replace(blocks, slash_ratio=0.18))  # of 126: 25, 100
    other, _ = run(qkv, dataclasses.replace(blocks, verticals=25))
    np.testing.assert_array_equal(ratio, other)


@pytest.mark.parametrize("sizes, words", [
    ([[30.0, 50.0]] * 4, "block_sizes has dtype float64; allowed: integers"),
    ([30, 50], "block_sizes has 1 dimensions; allowed: 2"),
    ([[30, 50]] * 2, r"block_sizes has shape \(2, 2\); allowed: \(4, 2\), two for each query head"),
    ([[30, 50]] * 3 + [[30, 2**40]], f"block_sizes holds {2**40}; allowed: integers of 32 bits"),
    ([[30, 50]] * 3 + [[30, -1]], r"block_sizes\[3\] is \{30, -1\}; allowed: >= 0"),
    ([[1001, 50]] * 4, r"block_sizes\[0\] has 1001 verticals; allowed: at most blocks.verticals"),
])
def test_wrong_sizes_are_refused(qkv, sizes, words):
    with pytest.raises(ArgumentError, match=words):
        run(qkv, BlockConfig(pattern="vertical_slash"), block_sizes=sizes)
    with pytest.raises(ArgumentError, match="slash_ratio is 0.5; make the plan with slash_ratio 0"):
        run(qkv, BlockConfig(pattern="vertical_slash", slash_ratio=0.5),
            block_sizes=[[30, 50]] * 4)
