// The estimators of block masks: against naive forms of their definitions, known answers, and what
// holds for each of them. tests/verify/blocks_test.cc has masks of an implementation in Python.
#include "ref/estimate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "ref/blocks.h"
#include "support/case_data.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::CaseData;
using test::Content;

constexpr BlockPattern kEstimated[] = {BlockPattern::kFlex, BlockPattern::kPooled,
                                       BlockPattern::kAntidiagonal};

AttentionCase prompt(int64_t queries, int64_t keys, Content content = Content::kHeavyHitters) {
  AttentionCase c = {"estimate", test::suffix_attention(queries, keys, 4, 2, 32)};
  c.select.dense_policy = DensePolicy::kNever;
  c.content = content;
  return c;
}

Plan plan_of(const AttentionCase& c, const BlockConfig& blocks) {
  return make_plan(c.shape, c.select, blocks, {.backend = Backend::kRef}).value();
}

// A mask's tiles below the diagonal, [row tiles][key tiles].
using Tiles = std::vector<std::vector<bool>>;

Tiles all_tiles(const TileGrid& grid) {
  Tiles tiles;
  for (int64_t t = 0; t < grid.row_tiles(); ++t) tiles.emplace_back(grid.end(t), true);
  return tiles;
}

int64_t count(const Tiles& tiles) {
  int64_t set = 0;
  for (const auto& row : tiles) set += std::count(row.begin(), row.end(), true);
  return set;
}

bool contains(const Tiles& larger, const Tiles& smaller) {
  for (size_t t = 0; t < smaller.size(); ++t) {
    for (size_t c = 0; c < smaller[t].size(); ++c) {
      if (smaller[t][c] && !larger[t][c]) return false;
    }
  }
  return true;
}

// Of query head h.
Tiles tiles_of_head(const Plan& plan, const AttentionInputs& in, int64_t h) {
  const ref::Selection selection = ref::select_sequence(plan, in, 0, {});
  const ref::Masks masks = ref::block_masks(plan, in, 0, selection);
  std::span<const int32_t> kept;
  if (!selection.dense()) kept = selection.kept_of(plan, h);
  const TileGrid grid = tile_grid(plan, kept);
  Tiles tiles;
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    std::vector<bool>& row = tiles.emplace_back();
    for (int64_t c = 0; c < grid.end(t); ++c) row.push_back(masks.of(plan, h).get(t, c));
  }
  return tiles;
}

Tiles estimate(const AttentionCase& c, const CaseData& data, const BlockConfig& blocks,
               int64_t h = 0) {
  return tiles_of_head(plan_of(c, blocks), data.inputs(), h);
}

// ---- naive forms

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
  return {{1, 1}, {100, 100}, {128, 128}, {129, 129}, {700, 700}, {768, 768}, {130, 700}, {55, 523}};
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

// Column 0 and those of `columns`, the diagonal and those of `distances`.
Tiles lines(const TileGrid& grid, const std::set<int64_t>& columns,
            const std::set<int64_t>& distances) {
  Tiles tiles;
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    std::vector<bool>& row = tiles.emplace_back();
    for (int64_t c = 0; c < grid.end(t); ++c) {
      row.push_back(columns.contains(c) || distances.contains(grid.end(t) - 1 - c) ||
                    distances.contains(grid.diagonal(t) - c));
    }
  }
  return tiles;
}

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
// 1 / 897 to 1 / 1024, which is 1.0431e-3. 863 of them pass .9, which asks for 7 tiles; budgets of 300
// tokens allow 3.
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

// ---- properties

BlockConfig with(BlockPattern pattern, double threshold) {
  BlockConfig blocks = {.pattern = pattern};
  blocks.gamma = blocks.threshold = blocks.alpha = threshold;
  blocks.min_budget = 128;
  blocks.flex_tau = 0;
  blocks.sink_tiles = blocks.window_tiles = blocks.last_tiles = 1;
  return blocks;
}

// Leaves tiles out in every pattern.
BlockConfig strict(BlockPattern pattern) {
  return with(pattern, pattern == BlockPattern::kPooled ? 0.95 : 0.5);
}

TEST(RefEstimate, SinksAndDiagonalAreVisited) {
  for (BlockPattern pattern : kEstimated) {
    for (auto [queries, keys] : {std::pair{900, 900}, {333, 900}}) {
      const AttentionCase c = prompt(queries, keys);
      const CaseData data = test::make_data(c, 27);
      for (double tau : {0.0, 2.0}) {
        BlockConfig blocks = with(pattern, pattern == BlockPattern::kPooled ? 1.0 : 0.0);
        blocks.flex_tau = tau;
        const TileGrid grid = {keys - queries, keys};
        const Tiles tiles = estimate(c, data, blocks);
        EXPECT_TRUE(contains(tiles, lines(grid, {0}, {0}))) << static_cast<int>(pattern);
        EXPECT_LT(count(tiles), count(all_tiles(grid)));
      }
    }
  }
}

TEST(RefEstimate, DensityIsMonotoneInTheThreshold) {
  const AttentionCase c = prompt(1100, 1100);
  const CaseData data = test::make_data(c, 28);
  for (BlockPattern pattern : kEstimated) {
    for (double tau : {0.0, 2.0}) {
      Tiles before;
      for (double share : {0.0, 0.2, 0.5, 0.8, 0.95, 1.0}) {
        const bool falls = pattern == BlockPattern::kPooled;
        BlockConfig blocks = with(pattern, falls ? 1 - share : share);
        blocks.flex_tau = tau;
        const Tiles tiles = estimate(c, data, blocks);
        EXPECT_TRUE(contains(tiles, before));
        before = tiles;
      }
      EXPECT_EQ(before, all_tiles({0, 1100})) << "the least strict threshold";
    }
  }
}

// Rows of a chunk that begins with a tile are those of the whole prompt: all rules but flex's map
// look at a row tile, the newest rows and the keys.
TEST(RefEstimate, ChunksHaveTheRowsOfTheWholePrompt) {
  const AttentionCase whole = prompt(1100, 1100), chunk = prompt(1100 - 384, 1100);
  const CaseData data = test::make_data(whole, 29);
  CaseData part = test::make_data(chunk, 29);
  part.k.assign(data.k.values());
  const std::vector<double> q = data.q.values();
  part.q.assign(std::span(q).subspan(384 * 4 * 32));
  for (BlockPattern pattern : kEstimated) {
    for (Share share : {Share::kHead, Share::kKv, Share::kLayer}) {
      BlockConfig blocks = strict(pattern);
      blocks.share = share;
      Tiles rows = estimate(whole, data, blocks, 2);
      rows.erase(rows.begin(), rows.begin() + 3);
      EXPECT_EQ(estimate(chunk, part, blocks, 2), rows);
    }
  }
}

TEST(RefEstimate, EveryTileWhereTheEstimateIsNotFinite) {
  for (Content content : {Content::kNanInK, Content::kInfInK}) {
    const AttentionCase c = prompt(900, 900, content);  // kv head 0, key 300
    const CaseData data = test::make_data(c, 30);
    for (BlockPattern pattern : kEstimated) {
      const BlockConfig blocks = strict(pattern);
      EXPECT_EQ(estimate(c, data, blocks, 0), all_tiles({0, 900}));
      EXPECT_EQ(estimate(c, data, blocks, 1), all_tiles({0, 900}));
      EXPECT_NE(estimate(c, data, blocks, 2), all_tiles({0, 900}));
    }
  }
  // The newest query of head 0; those rows visit everything in kPooled, whatever q holds.
  const AttentionCase c = prompt(900, 900, Content::kNanInQ);
  const CaseData data = test::make_data(c, 31);
  EXPECT_EQ(estimate(c, data, strict(BlockPattern::kFlex)), all_tiles({0, 900}));
  EXPECT_EQ(estimate(c, data, strict(BlockPattern::kAntidiagonal)), all_tiles({0, 900}));
  EXPECT_NE(estimate(c, data, strict(BlockPattern::kPooled)), all_tiles({0, 900}));
}

TEST(RefEstimate, MasksHaveThresholdsOfTheirOwn) {
  const AttentionCase c = prompt(900, 900);
  const CaseData data = test::make_data(c, 32);
  const std::vector<float> own = {0.125f, 0.5f, 0.75f, 1.0f};
  for (BlockPattern pattern : kEstimated) {
    AttentionInputs in = data.inputs();
    in.block_thresholds = own.data();
    for (int64_t h = 0; h < 4; ++h) {
      EXPECT_EQ(tiles_of_head(plan_of(c, with(pattern, 0.3)), in, h),
                estimate(c, data, with(pattern, own[h]), h));
    }
  }
}

// A page table, layouts and types change nothing; sm_scale counts, softcap does not.
TEST(RefEstimate, ReadsKeysThroughThePageTable) {
  AttentionCase paged = prompt(700, 700);
  paged.paged = true;
  paged.layout = test::Layout::kPadded;
  const CaseData from = test::make_data(paged, 33);
  const AttentionCase plain = prompt(700, 700);
  CaseData data = test::make_data(plain, 33);
  data.q.assign(from.q.values());
  for (int64_t j = 0; j < 700; ++j) {
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t d = 0; d < 32; ++d) data.k.set(0, j, h, d, from.k.at(0, from.kv_indices[j], h, d));
    }
  }
  AttentionCase scaled = plain, capped = plain;
  scaled.shape.sm_scale = 0.05f;
  capped.shape.softcap = 3.0f;
  for (BlockPattern pattern : kEstimated) {
    const BlockConfig blocks = strict(pattern);
    const Tiles tiles = estimate(plain, data, blocks, 3);
    EXPECT_EQ(estimate(paged, from, blocks, 3), tiles);
    EXPECT_EQ(estimate(capped, data, blocks, 3), tiles);
    EXPECT_NE(estimate(scaled, data, blocks, 3), tiles);
  }
}

// With selected tokens: the estimate of a shorter prompt of the kept rows; fill changes nothing.
TEST(RefEstimate, SelectedTokensAreAShorterPrompt) {
  AttentionCase c = prompt(1500, 1500);
  c.select = {.budget = BudgetPolicy::kKeepCount, .keep_count = 650, .min_keep = 0,
              .dense_policy = DensePolicy::kNever};
  const CaseData data = test::make_data(c, 34);
  for (BlockPattern pattern : kEstimated) {
    const BlockConfig blocks = strict(pattern);
    const Plan plan = plan_of(c, blocks);
    const ref::Selection chosen = ref::select_sequence(plan, data.inputs(), 0, {});
    const std::vector<int32_t>& kept = chosen.kept_of(plan, 3);
    ASSERT_EQ(kept.size(), 650u + 128u);
    AttentionCase compact = {"compact", test::self_attention(778, 1, 1, 32)};
    compact.select.dense_policy = DensePolicy::kNever;
    CaseData rows = test::make_data(compact, 34);
    for (int64_t r = 0; r < 778; ++r) {
      for (int64_t d = 0; d < 32; ++d) {
        rows.q.set(0, r, 0, d, data.q.at(0, kept[r], 3, d));
        rows.k.set(0, r, 0, d, data.k.at(0, kept[r], 1, d));
      }
    }
    const Tiles expected = estimate(compact, rows, blocks);
    EXPECT_EQ(estimate(c, data, blocks, 3), expected);
    AttentionCase local = c;
    local.select.fill = Fill::kLocal;
    EXPECT_EQ(estimate(local, data, blocks, 3), expected);
  }
}

// The call writes every bit, and its density is that of the run.
TEST(RefEstimate, EstimateBlocksIsTheMaskOfTheRun) {
  AttentionCase c = prompt(900, 900);
  c.shape.batch = 2;
  CaseData data = test::make_data(c, 35);
  for (BlockPattern pattern : kEstimated) {
    const Plan plan = plan_of(c, strict(pattern));
    std::vector<uint32_t> bits(2 * plan.num_masks * plan.row_tiles * plan.mask_words, ~0u);
    RunReport estimated, ran;
    const BlockMask mask = {bits.data(), plan.row_tiles, plan.mask_words, plan.num_masks};
    ASSERT_TRUE(estimate_blocks(plan, data.inputs(), mask, {}, {.report = &estimated}).ok());
    ASSERT_TRUE(run(plan, data.inputs(), data.outputs(), {}, {.report = &ran}).ok());
    EXPECT_EQ(estimated.block_density, ran.block_density);
    EXPECT_GT(estimated.stage_ns[static_cast<int>(Stage::kEstimate)], 0);
    const std::vector<double> out = data.out_values();

    AttentionInputs given = data.inputs();
    given.block_mask = mask;
    const Plan with_mask = plan_of(c, {.pattern = BlockPattern::kGiven});
    ASSERT_TRUE(run(with_mask, given, data.outputs(), {}, {.report = &ran}).ok());
    EXPECT_EQ(data.out_values(), out);
    for (uint32_t word : bits) EXPECT_LT(word, 1u << 8) << "tiles past the end";
    EXPECT_EQ(estimated.block_density, ran.block_density);
  }
}

}  // namespace
}  // namespace tokensieve
