// Attention under block masks that the caller gives, against the oracle: every path, poisoned
// memory, keys that no row tile visits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "support/block_masks.h"
#include "support/compare.h"
#include "support/isas.h"
#include "support/matrix_tiles.h"
#include "tokensieve/tokensieve.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::CaseData;
using test::Layout;
using test::Tiles;
using test::vary;

struct BlockCase {
  AttentionCase call;
  Tiles tiles = Tiles::kRandom;
  BlockConfig blocks = {.pattern = BlockPattern::kGiven};
};
void PrintTo(const BlockCase& c, std::ostream* os) { *os << c.call.name; }

BlockCase with(BlockCase c, std::string name, auto change) {
  c.call.name = std::move(name);
  change(c);
  return c;
}

BlockCase dense_case() {
  BlockCase c;
  c.call.shape = test::self_attention(700, 4, 2, 64);
  return c;
}

BlockCase sparse_case(Fill fill) {
  BlockCase c = dense_case();
  c.call.select = test::small_select();
  c.call.select.budget = BudgetPolicy::kKeepRatio;
  c.call.select.keep_ratio = 0.6;
  c.call.select.fill = fill;
  return c;
}

void add_tokens_off(std::vector<BlockCase>& cases) {
  const auto add = [&](const std::string& name, auto change) {
    cases.push_back(with(dense_case(), "dense_" + name, change));
  };
  for (int64_t n : {1, 127, 128, 129, 255, 700, 1500}) {
    add("length" + std::to_string(n), [&](BlockCase& c) {
      c.call.shape = test::self_attention(n, 4, 1, 64);
    });
  }
  for (auto [q, kv] : {std::pair{1, 1}, {4, 1}, {9, 3}, {8, 2}}) {
    add("heads" + std::to_string(q) + "x" + std::to_string(kv), [&](BlockCase& c) {
      c.call.shape = test::self_attention(300, q, kv, 64);
    });
  }
  for (int32_t dim : {80, 128, 256}) {
    add("dim" + std::to_string(dim), [&](BlockCase& c) {
      c.call.shape = test::self_attention(300, 4, 2, dim);
    });
  }
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    add(dtype_name(dtype), [&](BlockCase& c) {
      c.call.shape.dtype = c.call.shape.kv_dtype = c.call.shape.out_dtype = dtype;
    });
  }
  for (auto [q, kv] : {std::pair{1, 300}, {130, 557}, {128, 640}, {255, 300}, {300, 1500}}) {
    add("suffix" + std::to_string(q) + "of" + std::to_string(kv), [&](BlockCase& c) {
      c.call.shape = test::suffix_attention(q, kv, 4, 2, 64);
    });
  }
  add("suffix_diagonal", [](BlockCase& c) {
    c.call.shape = test::suffix_attention(330, 557, 4, 2, 64);
    c.tiles = Tiles::kDiagonal;
  });
  add("share_kv", [](BlockCase& c) { c.blocks.share = Share::kKv; });
  add("share_layer", [](BlockCase& c) { c.blocks.share = Share::kLayer; });
}

void add_sparse(std::vector<BlockCase>& cases, const std::string& kind, const BlockCase& base) {
  const auto add = [&](const std::string& name, auto change) {
    cases.push_back(with(base, kind + "_" + name, change));
  };
  const std::pair<const char*, Tiles> all[] = {
      {"random", Tiles::kRandom}, {"full", Tiles::kFull}, {"diagonal", Tiles::kDiagonal},
      {"one_far", Tiles::kOneFar}, {"column0", Tiles::kColumn0},
      {"empty_rows", Tiles::kEmptyRows}, {"empty", Tiles::kEmpty}};
  for (const auto& [name, tiles] : all) {
    add(name, [&](BlockCase& c) { c.tiles = tiles; });
    add(std::string(name) + "_sinks", [&](BlockCase& c) {
      c.tiles = tiles;
      c.call.sinks = true;
    });
  }
  for (int64_t rows : {1, 128, 200, 1000}) {
    add("dense_rows" + std::to_string(rows), [&](BlockCase& c) {
      c.tiles = Tiles::kEmpty;
      c.blocks.dense_rows = rows;
    });
  }
  add("softcap", [](BlockCase& c) { c.call.shape.softcap = 5.0f; });
  add("batch_paged", [](BlockCase& c) {
    c.call.shape.batch = 2;
    c.call.paged = true;
    c.call.layout = Layout::kPadded;
  });
  if (!base.call.select.enabled) return;
  for (auto [name, share] : {std::pair{"kv", Share::kKv}, {"layer", Share::kLayer}}) {
    add(std::string("sets_of_") + name, [&](BlockCase& c) { c.call.select.share = share; });
    add(std::string("both_of_") + name, [&](BlockCase& c) {
      c.call.select.share = c.blocks.share = share;
    });
  }
  add("layer_mask_over_heads_sets", [](BlockCase& c) { c.blocks.share = Share::kLayer; });
  // Kept tokens around a tile's end.
  for (int64_t keep : {64, 95, 96, 97, 224}) {
    add("keep" + std::to_string(keep), [&](BlockCase& c) {
      c.call.select.budget = BudgetPolicy::kKeepCount;
      c.call.select.keep_count = keep;
    });
  }
  add("long", [](BlockCase& c) { c.call.shape = test::self_attention(1500, 2, 1, 64); });
}

std::vector<BlockCase> block_cases() {
  std::vector<BlockCase> cases;
  add_tokens_off(cases);
  add_sparse(cases, "dense", dense_case());
  add_sparse(cases, "zero", sparse_case(Fill::kZero));
  add_sparse(cases, "local", sparse_case(Fill::kLocal));
  BlockCase part = sparse_case(Fill::kLocal);
  part.call.shape = test::suffix_attention(330, 1100, 4, 2, 64);
  add_sparse(cases, "part", part);
  return cases;
}

// A case's tensors, the kept tokens that the CPU backend chose, and a mask over both.
struct Call {
  Call(const BlockCase& c, uint64_t seed, Isa isa = Isa::kAuto, int threads = 1)
      : Call(c, seed, {.backend = Backend::kCpu, .isa = isa, .num_threads = threads}) {}

  Call(const BlockCase& c, uint64_t seed, const PlanOptions& options)
      : plan(make_plan(c.call.shape, c.call.select, c.blocks, options).value()),
        data(test::make_data(c.call, seed)) {
    if (plan.path == Path::kSparse) {
      indices.resize(c.call.shape.batch * plan.num_sets * plan.keep_capacity());
      count.resize(c.call.shape.batch);
      test::GuardedBytes workspace(workspace_bytes(plan));
      const Status status = select_tokens(plan, data.inputs(), keep(), workspace.span());
      EXPECT_TRUE(status.ok()) << status.message();
    }
    bits = test::make_mask(plan, keep(), c.tiles, seed);
  }

  KeepSet keep() {
    if (indices.empty()) return {};
    return {indices.data(), plan.keep_capacity(), count.data()};
  }
  AttentionInputs inputs() {
    AttentionInputs in = data.inputs();
    in.keep = keep();
    if (plan.blocks.pattern == BlockPattern::kGiven) {
      in.block_mask = {bits.data(), plan.row_tiles, plan.mask_words, plan.num_masks};
    }
    return in;
  }

  Plan plan;
  CaseData data;
  std::vector<int32_t> indices;
  std::vector<int64_t> count;
  std::vector<uint32_t> bits;
};

struct Outcome {
  RunReport report;
  std::vector<double> out;
  std::vector<float> lse;

  bool operator==(const Outcome& other) const {  // NaN equals itself
    return std::memcmp(out.data(), other.out.data(), out.size() * sizeof(double)) == 0 &&
           std::memcmp(lse.data(), other.lse.data(), lse.size() * sizeof(float)) == 0;
  }
};

Outcome run_call(Call& call, const Plan& plan, const AttentionInputs& in, int threads = 1) {
  test::GuardedBytes workspace(workspace_bytes(plan));
  const std::unique_ptr<Executor> executor = make_thread_pool(threads);
  call.data.poison_outputs();
  Outcome outcome;
  const Status status = run(plan, in, call.data.outputs(), workspace.span(),
                            {.executor = executor.get(), .report = &outcome.report});
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(workspace.guards_intact());
  EXPECT_TRUE(call.data.out.untouched_outside());
  outcome.out = call.data.out_values();
  outcome.lse = call.data.lse;
  return outcome;
}

Outcome run_call(Call& call, int threads = 1) {
  return run_call(call, call.plan, call.inputs(), threads);
}

class CpuBlocks : public testing::TestWithParam<BlockCase> {};

TEST_P(CpuBlocks, MatchTheOracleUnderEveryIsa) {
  const BlockCase& c = GetParam();
  const AttentionShape& s = c.call.shape;
  ref::OracleResult expected;
  std::vector<int32_t> kept;
  for (Isa isa : test::tested_isas()) {
    SCOPED_TRACE(isa_name(isa));
    Call call(c, 1, isa);
    // They may differ in near ties of which tokens to keep.
    if (expected.out.empty() || call.indices != kept) {
      ASSERT_TRUE(ref::run_oracle(call.plan, call.inputs(), {}, expected).ok());
      kept = call.indices;
    }
    const Outcome actual = run_call(call);
    EXPECT_TRUE(test::close(actual.out, expected.out, test::output_tolerance(c.call),
                            {s.batch, s.seqlen_q, s.num_q_heads, s.head_dim}));
    EXPECT_TRUE(test::close(actual.lse, expected.lse, 1e-5, {s.batch, s.num_q_heads, s.seqlen_q}));
    EXPECT_EQ(actual.report.block_density, expected.report.block_density);
    EXPECT_EQ(actual.report.work, expected.report.work);
    EXPECT_EQ(actual.report.path, expected.report.path);
  }
}

TEST_P(CpuBlocks, AreBitEqualAcrossThreads) {
  Call call(GetParam(), 2, Isa::kAuto, 2);
  const Outcome serial = run_call(call);
  EXPECT_TRUE(serial == run_call(call, 2));
}

TEST_P(CpuBlocks, MatchTheOracleOnMatrixTiles) {
  for (const Products products : test::kTileProducts) {
    BlockCase c = GetParam();
    c.call = test::on_tiles(c.call, products);
    const AttentionShape& s = c.call.shape;
    const auto on = [&](Isa isa) {
      return PlanOptions{
          .backend = Backend::kCpu, .isa = isa, .products = products, .require_products = true};
    };
    Call call(c, 1, on(test::best_tiles()));
    ref::OracleResult expected;
    ASSERT_TRUE(ref::run_oracle(call.plan, call.inputs(), {}, expected).ok());
    const Outcome actual = run_call(call);
    EXPECT_TRUE(test::close(actual.out, expected.out, test::tile_tolerance(c.call, products),
                            {s.batch, s.seqlen_q, s.num_q_heads, s.head_dim}));
    EXPECT_TRUE(test::close(actual.lse, expected.lse, test::lse_tolerance(products),
                            {s.batch, s.num_q_heads, s.seqlen_q}));
    Call emulated(c, 1, on(Isa::kAmxEmulated));
    EXPECT_TRUE(actual == run_call(emulated));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuBlocks, testing::ValuesIn(block_cases()),
                         [](const auto& info) { return info.param.call.name; });

// Also where carried rows of local fill are cut at a row tile's end.
TEST(CpuBlocksFull, IsTheRunWithoutAMaskBitForBit) {
  for (const BlockCase& c : block_cases()) {
    if (c.tiles != Tiles::kFull) continue;
    SCOPED_TRACE(c.call.name);
    Call call(c, 3);
    const Outcome masked = run_call(call);
    EXPECT_EQ(masked.report.block_density, 1.0);
    const Plan plain =
        make_plan(c.call.shape, c.call.select, {.backend = Backend::kCpu}).value();
    AttentionInputs in = call.inputs();
    in.block_mask = {};
    EXPECT_TRUE(masked == run_call(call, plain, in));
  }
}

TEST(CpuBlocksFull, IsTheRunWithoutAMaskAlsoOnMatrixTiles) {
  const PlanOptions options = {.backend = Backend::kCpu,
                               .isa = test::best_tiles(),
                               .products = Products::kSplit,
                               .require_products = true};
  for (BlockCase c : block_cases()) {
    if (c.tiles != Tiles::kFull) continue;
    SCOPED_TRACE(c.call.name);
    c.call = test::on_tiles(c.call, Products::kSplit);
    Call call(c, 3, options);
    const Outcome masked = run_call(call);
    const Plan plain = make_plan(c.call.shape, c.call.select, options).value();
    AttentionInputs in = call.inputs();
    in.block_mask = {};
    EXPECT_TRUE(masked == run_call(call, plain, in));
  }
}

// NaN in k and v of key tile 1, which no row tile lists, reaches no row, or with local fill only
// those in whose window it lies.
void expect_hidden(const BlockCase& c) {
  Call call(c, 4);
  const Outcome clean = run_call(call);
  const AttentionShape& s = c.call.shape;
  int64_t last = 0;
  for (int64_t rank = kBlock; rank < 2 * kBlock; ++rank) {
    last = call.indices.empty() ? rank : call.indices[rank];
    for (int64_t h = 0; h < s.num_kv_heads; ++h) {
      call.data.k.set(0, last, h, 3, NAN);
      call.data.v.set(0, last, h, 5, NAN);
    }
  }
  const Outcome hidden = run_call(call);
  const bool local = c.call.select.enabled && c.call.select.fill == Fill::kLocal;
  const int64_t begin = local ? (last / kLocalBlock + 1) * kLocalBlock + c.call.select.local_window
                              : 0;
  ASSERT_LT(begin, s.seqlen_q - 64);
  const auto from = static_cast<ptrdiff_t>(begin * s.num_q_heads * s.head_dim);
  EXPECT_TRUE(std::equal(clean.out.begin() + from, clean.out.end(), hidden.out.begin() + from));
}

TEST(CpuBlocksUnlisted, KeysDoNotShow) {
  for (BlockCase c : {dense_case(), sparse_case(Fill::kZero), sparse_case(Fill::kLocal)}) {
    c.call.select.share = c.blocks.share = Share::kLayer;
    c.tiles = Tiles::kColumn0;
    expect_hidden(c);
  }
}

// The dense one's tiles are those of all tokens.
TEST(CpuBlocksBatch, SparseAndDenseSequencesTakeTurns) {
  for (const Fill fill : {Fill::kZero, Fill::kLocal}) {
    BlockCase c = sparse_case(fill);
    c.call.shape.batch = 3;
    Call call(c, 5);
    call.count[1] = c.call.shape.seqlen_kv;
    call.bits = test::make_mask(call.plan, call.keep(), Tiles::kRandom, 5);
    ref::OracleResult expected;
    ASSERT_TRUE(ref::run_oracle(call.plan, call.inputs(), {}, expected).ok());
    const Outcome actual = run_call(call);
    EXPECT_TRUE(test::close(actual.out, expected.out, test::output_tolerance(c.call),
                            {3, 700, 4, 64}));
    EXPECT_EQ(actual.report.block_density, expected.report.block_density);
  }
}

// Three sequences in one call; the middle one is all NaN. Each is what it is alone.
TEST(CpuBlocksPacked, AreTheSequencesOneByOne) {
  const std::vector<int32_t> cu = {0, 300, 429, 929};
  BlockCase c = dense_case();
  c.call.shape = test::self_attention(cu.back(), 4, 2, 64);
  CaseData data = test::make_data(c.call, 6);
  for (int64_t j = cu[1]; j < cu[2]; ++j) {
    for (int64_t h = 0; h < 2; ++h) data.k.set(0, j, h, 0, NAN), data.v.set(0, j, h, 0, NAN);
  }
  AttentionShape shape = c.call.shape;
  shape.packed = true;
  shape.batch = 3;
  shape.seqlen_q = shape.seqlen_kv = 500;
  const Plan plan =
      make_plan(shape, c.call.select, c.blocks, {.backend = Backend::kCpu}).value();
  std::vector<uint32_t> bits(3 * plan.num_masks * plan.row_tiles * plan.mask_words);
  test::Random random(7);
  for (uint32_t& word : bits) word = static_cast<uint32_t>(random.next());
  const BlockMask mask = {bits.data(), plan.row_tiles, plan.mask_words, plan.num_masks};
  AttentionInputs in = data.inputs();
  in.block_mask = mask;
  in.cu_seqlens_q = in.cu_seqlens_kv = cu.data();
  test::GuardedBytes workspace(workspace_bytes(plan));
  RunReport report;
  const Status status = run(plan, in, data.outputs(), workspace.span(), {.report = &report});
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(workspace.guards_intact());
  EXPECT_GT(report.block_density, 0.2);
  EXPECT_LT(report.block_density, 0.8);

  for (int b = 0; b < 3; ++b) {
    SCOPED_TRACE(b);
    AttentionShape one = c.call.shape;
    one.seqlen_q = one.seqlen_kv = cu[b + 1] - cu[b];
    const Plan alone =
        make_plan(one, c.call.select, c.blocks, {.backend = Backend::kCpu}).value();
    std::vector<uint32_t> own;
    for (int64_t m = 0; m < plan.num_masks; ++m) {
      const MaskRows rows = mask_rows(mask, b, m);
      for (int64_t t = 0; t < alone.row_tiles; ++t) {
        own.insert(own.end(), rows.bits + t * rows.words,
                   rows.bits + t * rows.words + alone.mask_words);
      }
    }
    AttentionInputs part = data.inputs();
    for (TensorView* view : {&part.q, &part.k, &part.v}) {
      view->data = static_cast<float*>(view->data) + cu[b] * view->strides[1];
      view->shape[1] = one.seqlen_q;
    }
    part.block_mask = {own.data(), alone.row_tiles, alone.mask_words, alone.num_masks};
    ref::OracleResult expected;
    ASSERT_TRUE(ref::run_oracle(alone, part, {}, expected).ok());
    const std::vector<double> all = data.out_values();
    const auto row = static_cast<ptrdiff_t>(one.num_q_heads * one.head_dim);
    const std::vector<double> actual(all.begin() + cu[b] * row, all.begin() + cu[b + 1] * row);
    EXPECT_TRUE(test::close(actual, expected.out, test::output_tolerance(c.call),
                            {1, one.seqlen_q, one.num_q_heads, one.head_dim}));
  }
}

TEST(CpuBlocksScores, ListTilesAboveTheThreshold) {
  BlockCase c = dense_case();
  c.blocks = {.pattern = BlockPattern::kScores, .threshold = 0.6, .dense_rows = 1};
  c.call.shape.batch = 2;
  Call call(c, 8);
  const Plan& plan = call.plan;
  const int64_t columns = tiles_of(c.call.shape.seqlen_kv);
  std::vector<float> scores(2 * plan.num_masks * plan.row_tiles * columns);
  test::Random random(9);
  for (float& score : scores) score = static_cast<float>(random.below(5)) / 4;  // ties with .75
  scores[3] = NAN;
  const std::vector<float> thresholds = {0.0f, 0.25f, 0.75f, 1.0f};
  for (const float* own : {static_cast<const float*>(nullptr), thresholds.data()}) {
    AttentionInputs in = call.inputs();
    in.block_scores = scores.data();
    in.block_thresholds = own;
    ref::OracleResult expected;
    ASSERT_TRUE(ref::run_oracle(plan, in, {}, expected).ok());
    const Outcome actual = run_call(call, plan, in);
    EXPECT_TRUE(test::close(actual.out, expected.out, test::output_tolerance(c.call),
                            {2, 700, 4, 64}));
    EXPECT_EQ(actual.report.block_density, expected.report.block_density);

    std::vector<uint32_t> bits(2 * plan.num_masks * plan.row_tiles * plan.mask_words, ~0u);
    const BlockMask mask = {bits.data(), plan.row_tiles, plan.mask_words, plan.num_masks};
    test::GuardedBytes workspace(workspace_bytes(plan));
    RunReport report;
    const Status status = estimate_blocks(plan, in, mask, workspace.span(), {.report = &report});
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(report.block_density, expected.report.block_density);
    for (int64_t b = 0; b < 2; ++b) {
      for (int64_t m = 0; m < plan.num_masks; ++m) {
        for (int64_t t = 0; t < plan.row_tiles; ++t) {
          for (int64_t k = 0; k <= t; ++k) {
            const float score = scores[((b * 4 + m) * plan.row_tiles + t) * columns + k];
            const bool listed = score > (own ? own[m] : 0.6f) || t == plan.row_tiles - 1;
            EXPECT_EQ(mask_rows(mask, b, m).get(t, k), listed);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace tokensieve
