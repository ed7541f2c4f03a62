// What holds for every estimator of block masks.
#include "ref/estimate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "ref/estimated.h"

namespace tokensieve {
namespace {

using namespace test;

constexpr BlockPattern kEstimated[] = {BlockPattern::kFlex, BlockPattern::kPooled,
                                       BlockPattern::kAntidiagonal};

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
      const int64_t row = from.kv_indices[j];
      for (int64_t d = 0; d < 32; ++d) data.k.set(0, j, h, d, from.k.at(0, row, h, d));
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
