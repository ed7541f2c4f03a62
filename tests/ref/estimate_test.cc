// The estimators of block masks against naive forms of their definitions and known answers.
// tests/verify/blocks_test.cc has masks of an implementation in Python.
#include "ref/estimate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "ref/estimated.h"

namespace tokensieve {
namespace {

using namespace test;

// A head's products in long double, by position.
struct Head {
  const AttentionCase& c;
  const CaseData& data;
  int64_t h;
  std::vector<std::vector<long double>> means;  // of key tiles

  Head(const AttentionCase& case_, const CaseData& data_, int64_t head)
      : c(case_), data(data_), h(head) {
    for (int64_t begin = 0; begin < keys(); begin += 128) {
      const int64_t end = std::min(keys(), begin + 128);
      std::vector<long double>& mean = means.emplace_back(c.shape.head_dim, 0);
      for (int64_t j = begin; j < end; ++j) {
        for (int64_t d = 0; d < c.shape.head_dim; ++d) mean[d] += key(j, d) / (end - begin);
      }
    }
  }

  int64_t first() const { return c.shape.seqlen_kv - c.shape.seqlen_q; }
  int64_t keys() const { return c.shape.seqlen_kv; }
  int64_t rows_end(int64_t t) const { return std::min(keys(), first() + 128 * (t + 1)); }
  long double scale() const { return 1.0f / std::sqrt(static_cast<float>(c.shape.head_dim)); }
  long double key(int64_t j, int64_t d) const {
    return data.k.at(0, j, h * c.shape.num_kv_heads / c.shape.num_q_heads, d);
  }
  long double product(int64_t position, int64_t j) const {
    long double sum = 0;
    for (int64_t d = 0; d < c.shape.head_dim; ++d) {
      sum += data.q.at(0, position - first(), h, d) * key(j, d);
    }
    return sum * scale();
  }
  long double mean_product(int64_t position, int64_t tile) const {
    long double sum = 0;
    for (int64_t d = 0; d < c.shape.head_dim; ++d) {
      sum += data.q.at(0, position - first(), h, d) * means[tile][d];
    }
    return sum * scale();
  }
};

// Mass of every key tile in row tile t: products over antidiagonals of stride x stride pairs.
std::vector<long double> naive_group_mass(const Head& head, int64_t t, int64_t stride) {
  std::vector<long double> mass(tiles_of(head.rows_end(t)), 0);
  for (int64_t row = head.first() + 128 * t; row < head.rows_end(t); row += stride) {
    std::vector<long double> weights;
    for (int64_t key = 0; key < head.keys() && key <= row + stride - 1; key += stride) {
      long double sum = 0;
      for (int64_t p = row; p < std::min(row + stride, head.keys()); ++p) {
        for (int64_t j = key; j < std::min(key + stride, head.keys()); ++j) {
          if (p - row + j - key == stride - 1) sum += head.product(p, j);
        }
      }
      weights.push_back(std::exp(sum / static_cast<long double>(stride)));
    }
    long double total = 0;
    for (long double w : weights) total += w;
    for (size_t g = 0; g < weights.size(); ++g) mass[g * stride / 128] += weights[g] / total;
  }
  return mass;
}

Tiles naive_antidiagonal(const Head& head, double threshold, int64_t stride) {
  Tiles tiles;
  for (int64_t t = 0; 128 * t < head.c.shape.seqlen_q; ++t) {
    const std::vector<long double> mass = naive_group_mass(head, t, stride);
    std::vector<bool>& row = tiles.emplace_back(mass.size(), false);
    long double total = 0, covered = 0;
    for (long double m : mass) total += m;
    const auto take = [&](size_t c) {
      row[c] = true;
      covered += mass[c];
    };
    const auto diagonal = static_cast<size_t>((head.first() + 128 * t) / 128);
    for (size_t c = 0; c < mass.size(); ++c) {
      if (c == 0 || c >= diagonal) take(c);
    }
    while (covered < threshold * total) {
      size_t best = 0;
      for (size_t c = 0; c < mass.size(); ++c) {
        if (!row[c] && (row[best] || mass[c] > mass[best])) best = c;
      }
      take(best);
    }
  }
  return tiles;
}

// `heads` share the mask; `whole`: rows count for tiles that end with them, and not for those that
// they see the first key of.
Tiles naive_pooled(const std::vector<Head>& heads, const BlockConfig& b, bool whole) {
  Tiles tiles;
  const Head& one = heads[0];
  const int64_t row_tiles = tiles_of(one.c.shape.seqlen_q);
  for (int64_t t = 0; t < row_tiles; ++t) {
    const int64_t begin = one.first() + 128 * t, end = one.rows_end(t);
    std::vector<long double> energy(tiles_of(end), 0);
    for (const Head& head : heads) {
      for (int64_t p = begin; p < end; ++p) {
        for (int64_t c = 0; c < tiles_of(end); ++c) {
          const int64_t last = std::min(128 * c + 127, one.keys() - 1);
          if (whole ? last <= p : 128 * c <= p && c < end / 128) {
            energy[c] += std::exp(head.mean_product(p, c));
          }
        }
      }
    }
    const long double best = *std::max_element(energy.begin(), energy.end());
    std::vector<bool>& row = tiles.emplace_back();
    for (int64_t c = 0; c < tiles_of(end); ++c) {
      const bool scored = whole || c < end / 128;
      row.push_back((scored && energy[c] >= b.alpha * best) || c < b.sink_tiles ||
                    c > begin / 128 - b.window_tiles || t >= row_tiles - b.last_tiles);
    }
  }
  return tiles;
}

std::vector<std::pair<int64_t, int64_t>> sizes() {
  return {{1, 1},     {100, 100}, {128, 128}, {129, 129},
          {700, 700}, {768, 768}, {130, 700}, {55, 523}};
}

TEST(RefEstimate, AntidiagonalIsItsDefinition) {
  for (auto [queries, keys] : sizes()) {
    const AttentionCase c = prompt(queries, keys);
    const CaseData data = test::make_data(c, 21);
    for (int32_t stride : {8, 16, 32}) {
      for (double threshold : {0.5, 0.8}) {
        const BlockConfig blocks = {.pattern = BlockPattern::kAntidiagonal,
                                    .threshold = threshold, .stride = stride};
        EXPECT_EQ(estimate(c, data, blocks, 3),
                  naive_antidiagonal({c, data, 3}, threshold, stride))
            << queries << " of " << keys << ", stride " << stride;
      }
    }
  }
}

TEST(RefEstimate, PooledIsItsDefinition) {
  for (auto [queries, keys] : sizes()) {
    const AttentionCase c = prompt(queries, keys);
    const CaseData data = test::make_data(c, 22);
    for (double alpha : {0.3, 0.7}) {
      BlockConfig blocks = {.pattern = BlockPattern::kPooled, .alpha = alpha, .sink_tiles = 1,
                            .window_tiles = 1, .last_tiles = 0};
      SCOPED_TRACE(std::to_string(queries) + " of " + std::to_string(keys));
      EXPECT_EQ(estimate(c, data, blocks, 1), naive_pooled({{c, data, 1}}, blocks, true));
      blocks.share = Share::kKv;
      const std::vector<Head> group = {{c, data, 2}, {c, data, 3}};
      EXPECT_EQ(estimate(c, data, blocks, 3), naive_pooled(group, blocks, false));
      blocks.share = Share::kLayer;
      blocks.last_tiles = 1;
      const std::vector<Head> layer = {{c, data, 0}, {c, data, 1}, {c, data, 2}, {c, data, 3}};
      EXPECT_EQ(estimate(c, data, blocks), naive_pooled(layer, blocks, false));
    }
  }
}

// ---- flex, known answers

// All attend to key 333, in tile 2, at distances 539 to 666 from the newest 128 rows. Distance d is
// in tile distance 7 - (999 - d) / 128: 539 to 615 in 4, the fewer others in 5.
TEST(RefEstimate, FlexFollowsOneToken) {
  for (int64_t queries : {1000, 700, 616, 128}) {
    const AttentionCase c = prompt(queries, 1000, Content::kOneHot);
    const CaseData data = test::make_data(c, 23);
    const TileGrid grid = {1000 - queries, 1000};
    BlockConfig blocks = {.pattern = BlockPattern::kFlex, .min_budget = 256};
    EXPECT_EQ(estimate(c, data, blocks), lines(grid, {0, 2}, {0, 4}));
    blocks.min_budget = 384;
    EXPECT_EQ(estimate(c, data, blocks), lines(grid, {0, 1, 2}, {0, 4, 5})) << "ties: lowest first";
    blocks.min_budget = 0;
    EXPECT_EQ(estimate(c, data, blocks), lines(grid, {0}, {0}));
  }
}

// All keys are equal: every tile of a row has the same share. Half of eight rows' mass and a bit
// (4.48 of 8): rows 0 to 3, and two fifths of row 4.
TEST(RefEstimate, FlexMapTakesEqualTilesInOrder) {
  const AttentionCase c = prompt(1024, 1024, Content::kTies);
  const CaseData data = test::make_data(c, 24);
  const BlockConfig blocks = {.pattern = BlockPattern::kFlex, .gamma = 0.56, .flex_tau = 2,
                              .min_budget = 128};
  Tiles expected = lines({0, 1024}, {0}, {0});
  for (int64_t t = 0; t < 4; ++t) expected[t].assign(t + 1, true);
  expected[4][1] = true;
  EXPECT_EQ(estimate(c, data, blocks), expected);
}

// Equal keys: columns and distances up to 896 have the mass of every row of the probe, the mean of
// 1 / 897 to 1 / 1024, which is 1.0431e-3. 863 of them pass .9, which asks for 7 tiles; budgets of
// 300 tokens allow 3.
TEST(RefEstimate, FlexBudgets) {
  const AttentionCase c = prompt(1024, 1024, Content::kTies);
  const CaseData data = test::make_data(c, 25);
  BlockConfig blocks = {.pattern = BlockPattern::kFlex, .flex_tau = 0, .min_budget = 128};
  const TileGrid grid = {0, 1024};
  EXPECT_EQ(estimate(c, data, blocks),
            lines(grid, {0, 1, 2, 3, 4, 5, 6}, {0, 1, 2, 3, 4, 5, 6}));
  blocks.max_budget = 300;
  EXPECT_EQ(estimate(c, data, blocks), lines(grid, {0, 1, 2}, {0, 1, 2}));
  blocks.min_budget = 1024;
  EXPECT_EQ(estimate(c, data, blocks), all_tiles(grid)) << "too short";
  blocks = {.pattern = BlockPattern::kFlex, .gamma = 1, .flex_tau = 0, .min_budget = 0};
  EXPECT_EQ(estimate(c, data, blocks), all_tiles(grid));
  blocks.gamma = 0;
  EXPECT_EQ(estimate(c, data, blocks), lines(grid, {0}, {0}));
  blocks.flex_tau = 2;
  EXPECT_EQ(estimate(c, data, blocks), lines(grid, {0}, {0}));
  blocks.gamma = 1;
  EXPECT_EQ(estimate(c, data, blocks), all_tiles(grid));
}

TEST(RefEstimate, FlexIsDenseWhereItHasNoProbe) {
  for (auto [queries, keys] : {std::pair{256, 256}, {100, 100}, {1, 1}, {127, 2000}}) {
    const AttentionCase c = prompt(queries, keys);
    const BlockConfig blocks = {.pattern = BlockPattern::kFlex, .gamma = 0.1, .min_budget = 0};
    EXPECT_EQ(estimate(c, test::make_data(c, 26), blocks), all_tiles({keys - queries, keys}));
  }
}

}  // namespace
}  // namespace tokensieve
