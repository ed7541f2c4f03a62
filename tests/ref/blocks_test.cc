// Attention over block masks: which pairs take part, by membership tests over hand-made masks.
#include "ref/blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "ref/attend.h"
#include "ref/score.h"
#include "support/case_data.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::CaseData;

constexpr double kInf = std::numeric_limits<double>::infinity();

// Whether query head's row tile t visits key tile c.
using Visits = std::function<bool(int64_t head, int64_t t, int64_t c)>;

// A mask whose bits of tiles that hold no visible pair are set, too: they must not count.
struct MaskBits {
  std::vector<uint32_t> bits;
  BlockMask mask;

  MaskBits(const Plan& plan, const Visits& visits, int64_t first_row = 0)
      : bits(plan.shape.batch * plan.num_masks * plan.row_tiles * plan.mask_words, ~0u) {
    mask = {bits.data(), plan.row_tiles, plan.mask_words, plan.num_masks};
    for (int64_t i = 0; i < plan.shape.batch * plan.num_masks; ++i) {
      const int64_t m = i % plan.num_masks;
      for (int64_t t = 0; t < plan.row_tiles; ++t) {
        for (int64_t c = 0; c <= (first_row + t * 128 + 127) / 128 && c < 32 * plan.mask_words;
             ++c) {
          const int64_t word = (i * plan.row_tiles + t) * plan.mask_words + c / 32;
          if (!visits(m, t, c)) bits[word] &= ~(1u << c % 32);
        }
      }
    }
  }
};

Plan given_plan(const AttentionCase& c, Share share = Share::kHead) {
  const BlockConfig blocks = {.pattern = BlockPattern::kGiven, .share = share};
  const Result<Plan> plan = make_plan(c.shape, c.select, blocks, {.backend = Backend::kRef});
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  return plan.ok() ? *plan : Plan();
}

ref::OracleResult run_masked(const Plan& plan, const CaseData& data, const BlockMask& mask,
                             const KeepSet& keep = {}) {
  AttentionInputs in = data.inputs();
  in.block_mask = mask;
  in.keep = keep;
  ref::OracleResult result;
  const Status status = ref::run_oracle(plan, in, {}, result);
  EXPECT_TRUE(status.ok()) << status.message();
  return result;
}

// Every row of sequence 0 against one softmax over the tokens that `sees` admits, to the bit.
void expect_rows(const Plan& plan, const CaseData& data, const ref::OracleResult& result,
                 const std::function<bool(int64_t head, int64_t position, int64_t key)>& sees) {
  const AttentionShape& s = plan.shape;
  const AttentionInputs in = data.inputs();
  const std::vector<double> keys = ref::load_sequence(in.k, in.kv_indices, 0, s.seqlen_kv);
  const std::vector<double> values = ref::load_sequence(in.v, in.kv_indices, 0, s.seqlen_kv);
  std::vector<double> out(s.head_dim);
  for (int64_t h = 0; h < s.num_q_heads; ++h) {
    const int64_t kv = h * s.num_kv_heads / s.num_q_heads * s.seqlen_kv * s.head_dim;
    for (int64_t i = 0; i < s.seqlen_q; ++i) {
      const int64_t position = s.seqlen_kv - s.seqlen_q + i;
      std::vector<int32_t> tokens;
      for (int64_t j = 0; j <= position; ++j) {
        if (sees(h, position, j)) tokens.push_back(static_cast<int32_t>(j));
      }
      const double lse =
          ref::attend_row({plan, in, 0, h, i, &keys[kv], &values[kv]}, tokens, out.data());
      ASSERT_EQ(result.lse[h * s.seqlen_q + i], lse) << "head " << h << ", row " << i;
      const double* row = &result.out[(i * s.num_q_heads + h) * s.head_dim];
      ASSERT_TRUE(std::equal(out.begin(), out.end(), row)) << "head " << h << ", row " << i;
      if (!tokens.empty()) continue;
      ASSERT_EQ(lse, -kInf);
      ASSERT_EQ(std::count(row, row + s.head_dim, 0.0), s.head_dim);
    }
  }
}

AttentionCase dense_case(int64_t queries, int64_t keys) {
  return {"blocks", test::suffix_attention(queries, keys, 4, 2, 16)};
}

std::vector<AttentionCase> dense_sizes() {
  std::vector<AttentionCase> cases;
  for (int64_t n : {1, 127, 128, 129, 255, 640}) cases.push_back(dense_case(n, n));
  for (auto [q, kv] : {std::pair{1, 300}, {128, 384}, {100, 356}, {200, 457}, {257, 321}}) {
    cases.push_back(dense_case(q, kv));
  }
  return cases;
}

TEST(RefBlocks, FullMaskIsDenseToTheBit) {
  for (const AttentionCase& c : dense_sizes()) {
    const CaseData data = test::make_data(c, 1);
    const ref::OracleResult dense = test::run_oracle(c, data);
    const Plan plan = given_plan(c);
    const MaskBits full(plan, [](int64_t, int64_t, int64_t) { return true; });
    const ref::OracleResult masked = run_masked(plan, data, full.mask);
    EXPECT_EQ(masked.out, dense.out) << c.shape.seqlen_q << " of " << c.shape.seqlen_kv;
    EXPECT_EQ(masked.lse, dense.lse);
    EXPECT_EQ(masked.report.block_density, 1.0);
    EXPECT_EQ(masked.report.work, 1.0);
  }
}

struct Shape {
  const char* name;
  Visits visits;
};

// Of a prompt whose rows begin at key `first`, with `rows` row tiles.
std::vector<Shape> shapes(int64_t first, int64_t rows) {
  const auto diagonal = [first](int64_t t, int64_t c) { return c >= (first + 128 * t) / 128; };
  const auto but_row = [](int64_t empty) {
    return [empty](int64_t, int64_t t, int64_t) { return t != empty; };
  };
  return {{"diagonal", [=](int64_t, int64_t t, int64_t c) { return diagonal(t, c); }},
          {"column 0", [](int64_t, int64_t, int64_t c) { return c == 0; }},
          {"sink and diagonal",
           [=](int64_t, int64_t t, int64_t c) { return c == 0 || diagonal(t, c); }},
          {"one far tile", [=](int64_t, int64_t t, int64_t c) { return t == rows - 1 && c == 1; }},
          {"chequers", [](int64_t h, int64_t t, int64_t c) { return (h + t + c) % 2 == 0; }},
          {"first row tile empty", but_row(0)},
          {"middle row tile empty", but_row(rows / 2)},
          {"last row tile empty", but_row(rows - 1)},
          {"all empty", [](int64_t, int64_t, int64_t) { return false; }}};
}

TEST(RefBlocks, RowsSeeTheirVisitedTiles) {
  for (const AttentionCase& c : dense_sizes()) {
    const CaseData data = test::make_data(c, 2);
    const Plan plan = given_plan(c);
    const int64_t first = c.shape.seqlen_kv - c.shape.seqlen_q;
    for (const Shape& shape : shapes(first, plan.row_tiles)) {
      SCOPED_TRACE(std::string(shape.name) + ", " + std::to_string(c.shape.seqlen_q) + " of " +
                   std::to_string(c.shape.seqlen_kv));
      const MaskBits mask(plan, shape.visits, first);
      expect_rows(plan, data, run_masked(plan, data, mask.mask),
                  [&](int64_t h, int64_t position, int64_t key) {
                    return shape.visits(h, (position - first) / 128, key / 128);
                  });
    }
  }
}

TEST(RefBlocks, SinkLogitsDoNotFillEmptyRows) {
  AttentionCase c = dense_case(300, 300);
  c.sinks = true;
  const CaseData data = test::make_data(c, 3);
  const Plan plan = given_plan(c);
  const Visits visits = [](int64_t, int64_t t, int64_t) { return t != 1; };
  const MaskBits mask(plan, visits);
  expect_rows(plan, data, run_masked(plan, data, mask.mask),
              [&](int64_t h, int64_t position, int64_t key) {
                return visits(h, position / 128, key / 128);
              });
}

TEST(RefBlocks, UnvisitedTilesAreNeverRead) {
  const AttentionCase c = dense_case(400, 400);
  CaseData data = test::make_data(c, 4);
  const Plan plan = given_plan(c);
  const MaskBits mask(plan, [](int64_t, int64_t, int64_t key_tile) { return key_tile != 1; });
  const ref::OracleResult clean = run_masked(plan, data, mask.mask);
  for (int64_t j = 128; j < 256; ++j) {
    for (int64_t h = 0; h < 2; ++h) {
      data.k.set(0, j, h, 0, std::nan(""));
      data.v.set(0, j, h, 0, std::nan(""));
    }
  }
  const ref::OracleResult damaged = run_masked(plan, data, mask.mask);
  EXPECT_EQ(clean.out, damaged.out);
  EXPECT_EQ(clean.lse, damaged.lse);
}

TEST(RefBlocks, HeadsShareMasks) {
  const AttentionCase c = dense_case(300, 300);
  const CaseData data = test::make_data(c, 5);
  for (const auto& [share, heads] :
       {std::pair{Share::kHead, 1}, {Share::kKv, 2}, {Share::kLayer, 4}}) {
    const Plan plan = given_plan(c, share);
    ASSERT_EQ(plan.num_masks, 4 / heads);
    const Visits visits = [](int64_t m, int64_t t, int64_t c) { return (m + t + c) % 2 == 0; };
    const MaskBits mask(plan, visits);
    expect_rows(plan, data, run_masked(plan, data, mask.mask),
                [&, per_mask = heads](int64_t h, int64_t position, int64_t key) {
                  return visits(h / per_mask, position / 128, key / 128);
                });
  }
}

// 3 row tiles: tiles (1), (1 1), (1 1 1). Visited: the diagonal and tile (2, 0).
TEST(RefBlocks, DensityAndWorkCountTiles) {
  const AttentionCase c = dense_case(384, 384);
  const CaseData data = test::make_data(c, 6);
  const Plan plan = given_plan(c);
  const MaskBits mask(plan, [](int64_t, int64_t t, int64_t tile) { return (t - tile) % 2 == 0; });
  const RunReport report = run_masked(plan, data, mask.mask).report;
  EXPECT_DOUBLE_EQ(report.block_density, 4.0 / 6.0);
  EXPECT_DOUBLE_EQ(report.work, 4.0 / 6.0);
  EXPECT_EQ(report.reason, DenseReason::kDisabled);
}

// Rows 150 to 449: row tiles with a diagonal over key tiles 1 and 2, 2 and 3, and 3.
TEST(RefBlocks, DensityOfAChunk) {
  const AttentionCase c = dense_case(300, 450);
  const Plan plan = given_plan(c);
  const MaskBits mask(
      plan, [](int64_t, int64_t t, int64_t tile) { return tile >= (150 + 128 * t) / 128; }, 150);
  const RunReport report = run_masked(plan, test::make_data(c, 7), mask.mask).report;
  // Row tiles reach key 277, 405 and 449: 3, 4 and 4 key tiles; diagonals from 1, 2 and 3 on.
  EXPECT_DOUBLE_EQ(report.block_density, (2.0 + 2.0 + 1.0) / (3 + 4 + 4));
}

// ---- over selected tokens

// Sets of 4 query heads: every third token, another third each, and the newest 128.
struct ThinSets {
  std::vector<std::vector<int32_t>> kept;
  std::vector<int32_t> indices;
  std::vector<int64_t> count;

  ThinSets(const AttentionCase& c, const Plan& plan) {
    for (int64_t set = 0; set < plan.num_sets; ++set) {
      std::vector<int32_t>& own = kept.emplace_back();
      for (int32_t j = static_cast<int32_t>(set % 3); j < plan.prefix_len; j += 3) {
        if (own.size() < static_cast<size_t>(c.select.keep_count)) own.push_back(j);
      }
      for (int64_t j = plan.prefix_len; j < c.shape.seqlen_kv; ++j) {
        own.push_back(static_cast<int32_t>(j));
      }
      indices.insert(indices.end(), own.begin(), own.end());
    }
    count.push_back(static_cast<int64_t>(kept[0].size()));
  }
  KeepSet view() { return {indices.data(), count[0], count.data()}; }
  const std::vector<int32_t>& of(const Plan& plan, int64_t head) const {
    return kept[head * plan.num_sets / plan.shape.num_q_heads];
  }
};

AttentionCase thin_case(int64_t queries, int64_t keys, Fill fill) {
  AttentionCase c = dense_case(queries, keys);
  c.select = {.budget = BudgetPolicy::kKeepCount,
              .keep_count = 200,
              .obs_window = 100,
              .min_keep = 0,
              .fill = fill,
              .local_window = 128,
              .sinks = 5,
              .dense_policy = DensePolicy::kNever};
  return c;
}

// By token: whether it is kept, and how many are before it.
struct Ranks {
  std::vector<bool> kept;
  std::vector<int64_t> rank;

  Ranks(const std::vector<int32_t>& set, int64_t tokens) : kept(tokens, false) {
    for (int32_t j : set) kept[j] = true;
    int64_t before = 0;
    for (bool in_set : kept) {
      rank.push_back(before);
      before += in_set;
    }
  }
};

// Zero fill: kept rows over kept keys. Local fill: sinks and windows are seen whatever the mask.
TEST(RefBlocks, MasksAreOfKeptTokens) {
  using enum Fill;
  for (const AttentionCase& c : {thin_case(1000, 1000, kZero), thin_case(1000, 1000, kLocal),
                                 thin_case(333, 1000, kLocal), thin_case(500, 1000, kLocal)}) {
    const CaseData data = test::make_data(c, 8);
    const Plan plan = given_plan(c);
    ASSERT_EQ(plan.path, Path::kSparse);
    ThinSets sets(c, plan);
    const int64_t first_token = c.shape.seqlen_kv - c.shape.seqlen_q;
    std::vector<Ranks> heads;
    for (int64_t h = 0; h < 4; ++h) heads.emplace_back(sets.of(plan, h), c.shape.seqlen_kv);
    const int64_t first_row = heads[0].rank[first_token];
    for (const Shape& shape : shapes(first_row, 2)) {
      SCOPED_TRACE(shape.name);
      const MaskBits mask(plan, shape.visits, first_row);
      const auto sees = [&](int64_t h, int64_t position, int64_t key) {
        const auto& [kept, rank] = heads[h];
        if (c.select.fill == kLocal) {
          if (key < c.select.sinks || key >= position / 64 * 64 - 128) return true;
        }
        return kept[position] && kept[key] &&
               shape.visits(h, (rank[position] - rank[first_token]) / 128, rank[key] / 128);
      };
      expect_rows(plan, data, run_masked(plan, data, mask.mask, sets.view()), sees);
    }
  }
}

// 300 kept tokens: 200 of the first 600, then the newest 100 of 1000. Zero fill: tiles (0), (0 1),
// (0 1 2). Local fill, windows of 128 in blocks of 64: row tile 0 ends with token 381, whose window
// begins at 192, before which 64 are kept; row tiles 1 and 2 with 955 and 999, before whose windows
// 200 are: tiles (0), (0 1), (0 1).
TEST(RefBlocks, DensityOverKeptTokens) {
  const Visits column = [](int64_t, int64_t, int64_t c) { return c == 0; };
  for (const auto& [fill, visible] :
       {std::pair{Fill::kZero, 1 + 2 + 3}, {Fill::kLocal, 1 + 2 + 2}}) {
    AttentionCase c = thin_case(1000, 1000, fill);
    c.select.share = Share::kLayer;
    const Plan plan = given_plan(c);
    ThinSets sets(c, plan);
    const MaskBits mask(plan, column);
    const CaseData data = test::make_data(c, 9);
    const RunReport report = run_masked(plan, data, mask.mask, sets.view()).report;
    EXPECT_DOUBLE_EQ(report.block_density, 3.0 / visible);
    EXPECT_EQ(report.keep_count, 300);
    const MaskBits all(plan, [](int64_t, int64_t, int64_t) { return true; });
    EXPECT_EQ(run_masked(plan, data, all.mask, sets.view()).report.block_density, 1.0);
    EXPECT_LT(report.work, run_masked(plan, data, all.mask, sets.view()).report.work);
  }
}

// A sequence of the batch that keeps everything uses its mask in token coordinates.
TEST(RefBlocks, DenseSequenceOfASparsePlan) {
  AttentionCase c = thin_case(500, 500, Fill::kZero);
  const CaseData data = test::make_data(c, 10);
  const Plan plan = given_plan(c);
  std::vector<int32_t> none(plan.num_sets * plan.keep_capacity(), -1);
  int64_t count = 500;
  const Visits visits = [](int64_t h, int64_t t, int64_t tile) { return (h + t + tile) % 3 == 0; };
  const MaskBits mask(plan, visits);
  const ref::OracleResult result =
      run_masked(plan, data, mask.mask, {none.data(), plan.keep_capacity(), &count});
  expect_rows(plan, data, result, [&](int64_t h, int64_t position, int64_t key) {
    return visits(h, position / 128, key / 128);
  });
  EXPECT_EQ(result.report.reason, DenseReason::kNothingToDrop);
}

// ---- scores and rules that hold for all patterns

TEST(RefBlocks, ScoresAboveTheThresholdAreVisited) {
  const AttentionCase c = dense_case(400, 400);
  const CaseData data = test::make_data(c, 11);
  const BlockConfig blocks = {.pattern = BlockPattern::kScores, .threshold = 0.25};
  const Plan plan = make_plan(c.shape, c.select, blocks, {.backend = Backend::kRef}).value();
  std::vector<float> scores(4 * 4 * 4);
  for (size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i % 5) / 8;
  scores[4 * 3 + 2] = NAN;  // head 0, tile (3, 2)
  const std::vector<float> thresholds = {0.25f, 0.0f, 0.375f, 1.0f};
  AttentionInputs in = data.inputs();
  in.block_scores = scores.data();
  for (bool own : {false, true}) {
    in.block_thresholds = own ? thresholds.data() : nullptr;
    ref::OracleResult result;
    ASSERT_TRUE(ref::run_oracle(plan, in, {}, result).ok());
    expect_rows(plan, data, result, [&](int64_t h, int64_t position, int64_t key) {
      return scores[(h * 4 + position / 128) * 4 + key / 128] > (own ? thresholds[h] : 0.25f);
    });
  }
}

// The newest 129 rows are those from 271 on: row tiles 2 and 3.
TEST(RefBlocks, DenseRowsVisitEverything) {
  const AttentionCase c = dense_case(400, 400);
  const CaseData data = test::make_data(c, 12);
  for (const auto& [dense_rows, from] : {std::pair{0, 4}, {1, 3}, {16, 3}, {17, 2}, {129, 2},
                                         {144, 2}, {145, 1}, {400, 0}, {100000, 0}}) {
    BlockConfig blocks = {.pattern = BlockPattern::kGiven, .dense_rows = dense_rows};
    const Plan plan = make_plan(c.shape, c.select, blocks, {.backend = Backend::kRef}).value();
    const MaskBits mask(plan, [](int64_t, int64_t, int64_t tile) { return tile == 1; });
    expect_rows(plan, data, run_masked(plan, data, mask.mask),
                [first = from](int64_t, int64_t position, int64_t key) {
                  return position / 128 >= first || key / 128 == 1;
                });
  }
}

// NaN in q or k of a prompt that would select: dense, and no mask takes part.
TEST(RefBlocks, NonFiniteScoresTakeNoMask) {
  AttentionCase c = thin_case(1000, 1000, Fill::kZero);
  c.content = test::Content::kNanInQ;
  const CaseData data = test::make_data(c, 13);
  const BlockConfig blocks = {.pattern = BlockPattern::kAntidiagonal, .threshold = 0};
  const Plan plan = make_plan(c.shape, c.select, blocks, {.backend = Backend::kRef}).value();
  const ref::OracleResult masked = test::run_oracle(plan, data);
  EXPECT_EQ(masked.report.reason, DenseReason::kNonFiniteScore);
  EXPECT_EQ(masked.report.block_density, 1.0);
  c.select.enabled = false;
  const ref::OracleResult dense = test::run_oracle(c, data);
  for (size_t i = 0; i < dense.out.size(); ++i) {
    ASSERT_TRUE(dense.out[i] == masked.out[i] ||
                (std::isnan(dense.out[i]) && std::isnan(masked.out[i])));
  }
}

// Two sequences of a packed call have a mask each, in memory of the longer.
TEST(RefBlocks, PackedSequences) {
  AttentionCase longer = dense_case(400, 400), shorter = dense_case(150, 150);
  const CaseData a = test::make_data(longer, 14), b = test::make_data(shorter, 15);
  AttentionShape shape = longer.shape;
  shape.batch = 2;
  shape.packed = true;
  const BlockConfig blocks = {.pattern = BlockPattern::kGiven};
  const Plan plan =
      make_plan(shape, {.enabled = false}, blocks, {.backend = Backend::kRef}).value();
  const Visits visits = [](int64_t h, int64_t t, int64_t c) { return c == 0 || c + h == t; };
  const MaskBits mask(plan, visits);

  const auto joined = [](const test::Tensor& x, const test::Tensor& y, int64_t heads) {
    std::vector<double> values = x.values();
    const std::vector<double> more = y.values();
    values.insert(values.end(), more.begin(), more.end());
    test::Tensor tensor(DType::kF32, test::Layout::kBshd, 1, 550, heads, 16);
    tensor.assign(values);
    return tensor;
  };
  const test::Tensor q = joined(a.q, b.q, 4), k = joined(a.k, b.k, 2), v = joined(a.v, b.v, 2);
  test::Tensor out(DType::kF32, test::Layout::kBshd, 1, 550, 4, 16);
  const std::vector<int32_t> begins = {0, 400, 550};
  std::vector<std::byte> workspace(workspace_bytes(plan));
  RunReport report;
  const AttentionInputs in = {.q = q.view(), .k = k.view(), .v = v.view(),
                              .cu_seqlens_q = begins.data(), .cu_seqlens_kv = begins.data(),
                              .block_mask = mask.mask};
  const Status status = run(plan, in, {.out = out.view()}, workspace, {.report = &report});
  ASSERT_TRUE(status.ok()) << status.message();

  const Plan plan_a = given_plan(longer), plan_b = given_plan(shorter);
  const MaskBits mask_a(plan_a, visits), mask_b(plan_b, visits);
  std::vector<double> expected = run_masked(plan_a, a, mask_a.mask).out;
  const std::vector<double> rest = run_masked(plan_b, b, mask_b.mask).out;
  expected.insert(expected.end(), rest.begin(), rest.end());
  const std::vector<double> actual = out.values();
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i], static_cast<float>(expected[i])) << i;
  }
}

}  // namespace
}  // namespace tokensieve
