// The estimators of block masks against the oracle's: every instruction set, poisoned memory, sets
// that run() would choose and given ones, NaN and inf.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "ref/blocks.h"
#include "support/case_data.h"
#include "support/compare.h"
#include "support/isas.h"
#include "tokensieve/tokensieve.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::CaseData;
using test::Content;

struct EstimateCase {
  AttentionCase call;
  BlockConfig blocks;
  std::vector<float> thresholds = {};
  std::vector<int32_t> sizes = {};
};
void PrintTo(const EstimateCase& c, std::ostream* os) { *os << c.call.name; }

const char* short_name(BlockPattern pattern) {
  switch (pattern) {
    case BlockPattern::kFlex:
      return "flex";
    case BlockPattern::kPooled:
      return "pooled";
    case BlockPattern::kVerticalSlash:
      return "vertical_slash";
    default:
      return "antidiagonal";
  }
}

// Thresholds at which short prompts have masks of about half of the tiles.
BlockConfig config(BlockPattern pattern) {
  return {.pattern = pattern, .gamma = 0.7, .min_budget = 128, .threshold = 0.7, .alpha = 0.5,
          .sink_tiles = 1, .window_tiles = 1, .last_tiles = 1, .verticals = 90, .slashes = 120};
}

constexpr BlockPattern kEstimated[] = {BlockPattern::kFlex, BlockPattern::kPooled,
                                       BlockPattern::kAntidiagonal, BlockPattern::kVerticalSlash};

AttentionCase tokens(int64_t queries, int64_t keys) {
  AttentionCase c = {"", test::suffix_attention(queries, keys, 4, 2, 64)};
  c.select.dense_policy = DensePolicy::kNever;
  return c;
}

AttentionCase selected(Fill fill, int64_t queries, int64_t keys) {
  AttentionCase c = tokens(queries, keys);
  c.select = test::small_select();
  c.select.budget = BudgetPolicy::kKeepRatio;
  c.select.keep_ratio = 0.6;
  c.select.fill = fill;
  return c;
}

void add_lengths(std::vector<EstimateCase>& cases, BlockPattern pattern) {
  const std::string name = std::string(short_name(pattern)) + "_";
  for (int64_t n : {1, 127, 128, 129, 255, 257, 700, 1500}) {
    cases.push_back({tokens(n, n), config(pattern)});
    cases.back().call.name = name + "n" + std::to_string(n);
  }
  for (auto [q, kv] : {std::pair{1, 300}, {127, 640}, {130, 557}, {300, 1500}, {700, 801}}) {
    cases.push_back({tokens(q, kv), config(pattern)});
    cases.back().call.name = name + std::to_string(q) + "of" + std::to_string(kv);
  }
}

void add_features(std::vector<EstimateCase>& cases, BlockPattern pattern) {
  const auto add = [&](const std::string& name, const AttentionCase& call, auto change) {
    cases.push_back({call, config(pattern)});
    cases.back().call.name = std::string(short_name(pattern)) + "_" + name;
    change(cases.back());
  };
  const AttentionCase base = tokens(700, 700);
  for (auto [q, kv] : {std::pair{1, 1}, {4, 1}, {9, 3}, {8, 2}}) {
    add("heads" + std::to_string(q) + "x" + std::to_string(kv), base, [&](EstimateCase& c) {
      c.call.shape.num_q_heads = q, c.call.shape.num_kv_heads = kv;
    });
  }
  for (int32_t dim : {80, 128, 256}) {
    add("dim" + std::to_string(dim), base, [&](EstimateCase& c) { c.call.shape.head_dim = dim; });
  }
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    add(dtype_name(dtype), base, [&](EstimateCase& c) {
      c.call.shape.dtype = c.call.shape.kv_dtype = dtype;
    });
  }
  add("batch_paged_padded", base, [](EstimateCase& c) {
    c.call.shape.batch = 2, c.call.paged = true, c.call.layout = test::Layout::kPadded;
  });
  add("softcap_sinks_scale", base, [](EstimateCase& c) {  // only the scale takes part
    c.call.shape.softcap = 5.0f, c.call.shape.sm_scale = 0.2f, c.call.sinks = true;
  });
  add("own_settings", base, [&](EstimateCase& c) {
    if (pattern == BlockPattern::kVerticalSlash) {
      c.sizes = {0, 0, 31, 51, 90, 200, 60, 700};
    } else {
      c.thresholds = {0.0f, 0.3f, 0.9f, 1.0f};
    }
  });
  add("dense_rows", base, [](EstimateCase& c) { c.blocks.dense_rows = 130; });
  add("ties", base, [](EstimateCase& c) {
    c.call.content = Content::kTies;
    c.blocks.slashes = 100;  // sums along distances are f32's, in orders that differ: forced ones
  });
  add("one_hot", base, [](EstimateCase& c) { c.call.content = Content::kOneHot; });
  for (auto [name, content] : {std::pair{"nan_in_q", Content::kNanInQ},
                               {"nan_in_k", Content::kNanInK}, {"inf_in_k", Content::kInfInK}}) {
    add(name, base, [&](EstimateCase& c) { c.call.content = content; });
    add(std::string(name) + "_selected", selected(Fill::kZero, 700, 700),
        [&](EstimateCase& c) { c.call.content = content; });
  }
  for (Share share : {Share::kHead, Share::kKv, Share::kLayer}) {
    const std::string sets = std::to_string(static_cast<int>(share));
    const auto change = [&](EstimateCase& c) { c.call.select.share = share; };
    add("zero_sets" + sets, selected(Fill::kZero, 1100, 1100), change);
    add("local_sets" + sets, selected(Fill::kLocal, 1100, 1100), change);
    add("part_sets" + sets, selected(Fill::kLocal, 500, 1300), change);
  }
}

void add_settings(std::vector<EstimateCase>& cases) {
  const auto add = [&](const std::string& name, BlockPattern pattern, int64_t n, auto change) {
    cases.push_back({tokens(n, n), config(pattern)});
    cases.back().call.name = name;
    change(cases.back().blocks);
  };
  const BlockPattern flex = BlockPattern::kFlex;
  add("flex_lines", flex, 1500, [](BlockConfig& b) { b.flex_tau = 0.0; });
  add("flex_map", flex, 1500, [](BlockConfig& b) { b.flex_tau = 2.0; });
  add("flex_map_gamma1", flex, 700, [](BlockConfig& b) { b.flex_tau = 2.0, b.gamma = 1.0; });
  add("flex_gamma0", flex, 700, [](BlockConfig& b) { b.gamma = 0.0; });
  add("flex_gamma1", flex, 700, [](BlockConfig& b) { b.gamma = 1.0; });
  add("flex_budgets", flex, 1500, [](BlockConfig& b) { b.min_budget = 300, b.max_budget = 500; });
  add("flex_short", flex, 700, [](BlockConfig& b) { b.min_budget = 690; });
  const BlockPattern pooled = BlockPattern::kPooled;
  for (Share share : {Share::kKv, Share::kLayer}) {
    const std::string name = share == Share::kKv ? "kv" : "layer";
    add("pooled_" + name, pooled, 1100, [&](BlockConfig& b) { b.share = share; });
    cases.push_back(cases.back());
    cases.back().call = selected(Fill::kLocal, 500, 1300);  // a set a head
    cases.back().call.name = "pooled_" + name + "_part";
  }
  add("pooled_alpha0", pooled, 700, [](BlockConfig& b) { b.alpha = 0.0; });
  add("pooled_alpha1", pooled, 700, [](BlockConfig& b) { b.alpha = 1.0; });
  add("pooled_forced", pooled, 1500, [](BlockConfig& b) {
    b.sink_tiles = 3, b.window_tiles = 2, b.last_tiles = 0;
  });
  add("pooled_last_all", pooled, 700, [](BlockConfig& b) { b.last_tiles = 100; });
  for (int32_t stride : {8, 32}) {
    add("antidiagonal_stride" + std::to_string(stride), BlockPattern::kAntidiagonal, 1500,
        [&](BlockConfig& b) { b.stride = stride; });
  }
  const BlockPattern lines = BlockPattern::kVerticalSlash;
  add("lines_least", lines, 1500, [](BlockConfig& b) { b.verticals = b.slashes = 0; });
  add("lines_forced", lines, 1500, [](BlockConfig& b) { b.slashes = 99; });
  add("lines_one_more", lines, 1500, [](BlockConfig& b) { b.verticals = 31, b.slashes = 101; });
  add("lines_every_column", lines, 1500, [](BlockConfig& b) { b.verticals = 1500; });
  add("lines_every_distance", lines, 700, [](BlockConfig& b) { b.slashes = 10000; });
  add("lines_ratio", lines, 1500, [](BlockConfig& b) { b.slash_ratio = 0.1; });
  cases.push_back({selected(Fill::kLocal, 500, 1300), cases.back().blocks});  // a set a head
  cases.back().call.name = "lines_ratio_part";
}

// More keys than a kernel takes at once: of tokens' groups, and of tiles.
void add_long(std::vector<EstimateCase>& cases) {
  const auto add = [&](const std::string& name, BlockPattern pattern, auto change) {
    AttentionCase call = tokens(300, 33100);
    call.shape.num_q_heads = call.shape.num_kv_heads = 1;
    call.shape.head_dim = 16;
    cases.push_back({call, config(pattern)});
    cases.back().call.name = name;
    cases.back().blocks.last_tiles = 0;
    change(cases.back().blocks);
  };
  add("antidiagonal_long", BlockPattern::kAntidiagonal, [](BlockConfig&) {});
  add("pooled_long", BlockPattern::kPooled, [](BlockConfig&) {});
  add("pooled_layer_long", BlockPattern::kPooled, [](BlockConfig& b) { b.share = Share::kLayer; });
  add("lines_long", BlockPattern::kVerticalSlash, [](BlockConfig& b) {
    b.verticals = 700, b.slashes = 3000;
  });
  add("flex_lines_long", BlockPattern::kFlex, [](BlockConfig& b) { b.flex_tau = 0.0; });
  add("flex_map_long", BlockPattern::kFlex, [](BlockConfig& b) { b.flex_tau = 2.0; });
}

std::vector<EstimateCase> estimate_cases() {
  std::vector<EstimateCase> cases;
  for (BlockPattern pattern : kEstimated) {
    add_lengths(cases, pattern);
    add_features(cases, pattern);
  }
  add_settings(cases);
  add_long(cases);
  return cases;
}

// Keys of a tile lean by an amount of their own towards what rows of a row tile look for, or away.
CaseData make_data(const EstimateCase& c, uint64_t seed) {
  CaseData data = test::make_data(c.call, seed);
  if (c.call.content == Content::kTies || c.call.content == Content::kOneHot) return data;
  test::Random random(seed + 100);
  const AttentionShape& s = c.call.shape;
  const auto lean = [&](test::Tensor& x, int64_t rows, int64_t heads, bool keys) {
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t h = 0; h < heads; ++h) {
        double amount = 0.0;
        for (int64_t j = 0; j < rows; ++j) {
          if (j % 100 == 0) amount = 2.0 * random.normal();
          const int64_t row =
              keys && !data.kv_indices.empty() ? data.kv_indices[b * s.seqlen_kv + j] : j;
          for (int64_t d = 0; d < 8; ++d) x.set(b, row, h, d, x.at(b, row, h, d) + amount);
        }
      }
    }
  };
  lean(data.q, s.seqlen_q, s.num_q_heads, false);
  lean(data.k, s.seqlen_kv, s.num_kv_heads, true);
  return data;
}

AttentionInputs inputs_of(const EstimateCase& c, const CaseData& data) {
  AttentionInputs in = data.inputs();
  if (!c.thresholds.empty()) in.block_thresholds = c.thresholds.data();
  if (!c.sizes.empty()) in.block_sizes = c.sizes.data();
  return in;
}

struct Outcome {
  RunReport report;
  std::vector<uint32_t> bits;  // of estimate_blocks
  std::vector<double> out;
};

// Kept tokens by select_tokens, masks of them by estimate_blocks, and a run that finds both itself.
struct Call {
  Call(const EstimateCase& c, CaseData& data, Isa isa, int threads)
      : plan(make_plan(c.call.shape, c.call.select, c.blocks,
                       {.backend = Backend::kCpu, .isa = isa, .num_threads = threads})
                 .value()),
        in(inputs_of(c, data)) {
    const std::unique_ptr<Executor> pool = make_thread_pool(threads);
    RunOptions options{.executor = pool.get()};
    test::GuardedBytes workspace(workspace_bytes(plan));
    const auto call = [&](auto&& body) {
      workspace.poison();
      const Status status = body();
      EXPECT_TRUE(status.ok()) << status.message();
      EXPECT_TRUE(workspace.guards_intact());
    };
    if (plan.path == Path::kSparse) {
      indices.resize(c.call.shape.batch * plan.num_sets * plan.keep_capacity());
      count.resize(c.call.shape.batch);
      const KeepSet keep = {indices.data(), plan.keep_capacity(), count.data()};
      call([&] { return select_tokens(plan, in, keep, workspace.span(), options); });
      in.keep = keep;
    }
    outcome.bits.assign(
        c.call.shape.batch * plan.num_masks * plan.row_tiles * plan.mask_words, 0xdeadbeef);
    const BlockMask mask = {outcome.bits.data(), plan.row_tiles, plan.mask_words, plan.num_masks};
    call([&] { return estimate_blocks(plan, in, mask, workspace.span(), options); });
    data.poison_outputs();
    AttentionInputs plain = in;
    plain.keep = {};
    options.report = &outcome.report;
    call([&] { return run(plan, plain, data.outputs(), workspace.span(), options); });
    outcome.out = data.out_values();
  }

  Plan plan;
  AttentionInputs in;
  std::vector<int32_t> indices;
  std::vector<int64_t> count;
  Outcome outcome;
};

// Tiles of `bits` and of the oracle's masks that are visited: by both, by one of them.
struct Overlap {
  int64_t both = 0, one = 0;
};

// The oracle's masks of a sequence, over the tokens that a call keeps.
struct Expected {
  Expected(const Call& call, int64_t b)
      : selection(ref::select_sequence(call.plan, call.in, b, {})),
        masks(ref::block_masks(call.plan, call.in, b, selection)) {}

  ref::Selection selection;
  ref::Masks masks;
};

std::vector<Expected> expected_masks(const Call& call) {
  std::vector<Expected> expected;
  for (int64_t b = 0; b < call.plan.shape.batch; ++b) expected.emplace_back(call, b);
  return expected;
}

// Over all heads of sequence b.
Overlap compare_masks(const Call& call, const Expected& expected, int64_t b) {
  const ref::Selection& selection = expected.selection;
  const BlockMask mask = {const_cast<uint32_t*>(call.outcome.bits.data()), call.plan.row_tiles,
                          call.plan.mask_words, call.plan.num_masks};
  Overlap overlap;
  for (int64_t h = 0; h < call.plan.shape.num_q_heads; ++h) {
    std::span<const int32_t> kept;
    if (!selection.dense()) kept = selection.kept_of(call.plan, h);
    const TileGrid grid = tile_grid(call.plan, kept);
    const MaskRows actual = mask_rows(mask, b, h * call.plan.num_masks /
                                                   call.plan.shape.num_q_heads);
    for (int64_t t = 0; t < grid.row_tiles(); ++t) {
      for (int64_t k = 0; k < grid.key_tiles(); ++k) {
        const bool x = actual.get(t, k), y = expected.masks.of(call.plan, h).get(t, k);
        overlap.both += x && y;
        overlap.one += x != y;
      }
    }
  }
  return overlap;
}

class CpuEstimate : public testing::TestWithParam<EstimateCase> {};

TEST_P(CpuEstimate, ChoosesTheOraclesTilesUnderEveryIsa) {
  const EstimateCase& c = GetParam();
  CaseData data = make_data(c, 1);
  const Plan plan =
      make_plan(c.call.shape, c.call.select, c.blocks, {.backend = Backend::kCpu}).value();
  ref::OracleResult expected;
  ASSERT_TRUE(ref::run_oracle(plan, inputs_of(c, data), {}, expected).ok());
  std::vector<Expected> masks;
  std::vector<int32_t> kept;
  for (Isa isa : test::tested_isas()) {
    SCOPED_TRACE(isa_name(isa));
    const Call call(c, data, isa, 1);
    // They may differ in near ties of which tokens to keep.
    if (masks.empty() || call.indices != kept) {
      masks = expected_masks(call);
      kept = call.indices;
    }
    Overlap all;
    for (int64_t b = 0; b < c.call.shape.batch; ++b) {
      const Overlap overlap = compare_masks(call, masks[b], b);
      all.both += overlap.both;
      all.one += overlap.one;
    }
    EXPECT_EQ(all.one, 0) << "of " << all.both;

    EXPECT_EQ(call.outcome.report.block_density, expected.report.block_density);
    EXPECT_TRUE(test::close(call.outcome.out, expected.out, test::output_tolerance(c.call),
                            {c.call.shape.batch, c.call.shape.seqlen_q, c.call.shape.num_q_heads,
                             c.call.shape.head_dim}));
  }
}

TEST_P(CpuEstimate, IsBitEqualAcrossThreads) {
  const EstimateCase& c = GetParam();
  CaseData data = make_data(c, 2);
  const Call serial(c, data, Isa::kAuto, 1);
  const Call parallel(c, data, Isa::kAuto, 2);
  EXPECT_EQ(serial.outcome.bits, parallel.outcome.bits);
  EXPECT_EQ(serial.outcome.report.block_density, parallel.outcome.report.block_density);
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuEstimate, testing::ValuesIn(estimate_cases()),
                         [](const auto& info) { return info.param.call.name; });

// Sequences of one call, of which short ones may hold more heads at once than the longest.
TEST(CpuEstimatePacked, AreTheSequencesOneByOne) {
  const std::vector<int32_t> cu = {0, 300, 301, 1201, 1601};
  for (BlockPattern pattern : kEstimated) {
    for (const bool sparse : {false, true}) {
      SCOPED_TRACE(std::string(short_name(pattern)) + (sparse ? ", sparse" : ", dense"));
      EstimateCase c = {sparse ? selected(Fill::kZero, cu.back(), cu.back())
                               : tokens(cu.back(), cu.back()),
                        config(pattern)};
      CaseData data = make_data(c, 3);
      AttentionShape shape = c.call.shape;
      shape.packed = true;
      shape.batch = 4;
      shape.seqlen_q = shape.seqlen_kv = 900;
      const PlanOptions options = {.backend = Backend::kCpu};
      const Plan plan = make_plan(shape, c.call.select, c.blocks, options).value();
      AttentionInputs in = data.inputs();
      in.cu_seqlens_q = in.cu_seqlens_kv = cu.data();
      test::GuardedBytes workspace(workspace_bytes(plan));
      const Status status = run(plan, in, data.outputs(), workspace.span());
      ASSERT_TRUE(status.ok()) << status.message();
      EXPECT_TRUE(workspace.guards_intact());
      const std::vector<double> together = data.out_values();

      data.poison_outputs();
      for (size_t b = 0; b + 1 < cu.size(); ++b) {
        AttentionShape one = c.call.shape;
        one.seqlen_q = one.seqlen_kv = cu[b + 1] - cu[b];
        AttentionInputs part = data.inputs();
        AttentionOutputs out = {.out = data.out.view()};
        for (TensorView* view : {&part.q, &part.k, &part.v, &out.out}) {
          view->data = static_cast<float*>(view->data) + cu[b] * view->strides[1];
          view->shape[1] = one.seqlen_q;
        }
        const Plan alone = make_plan(one, c.call.select, c.blocks, options).value();
        test::GuardedBytes own(workspace_bytes(alone));
        ASSERT_TRUE(run(alone, part, out, own.span()).ok());
      }
      EXPECT_EQ(together, data.out_values());
    }
  }
}

// At whatever task the caller says so, on poisoned memory.
TEST(CpuEstimateCancel, StopsAndSaysSo) {
  for (BlockPattern pattern : kEstimated) {
    SCOPED_TRACE(short_name(pattern));
    EstimateCase c = {tokens(700, 700), config(pattern)};
    c.blocks.flex_tau = 2.0;
    CaseData data = make_data(c, 4);
    const Plan plan =
        make_plan(c.call.shape, c.call.select, c.blocks, {.backend = Backend::kCpu}).value();
    std::vector<uint32_t> bits(plan.num_masks * plan.row_tiles * plan.mask_words);
    const BlockMask mask = {bits.data(), plan.row_tiles, plan.mask_words, plan.num_masks};
    StatusCode code = StatusCode::kCancelled;
    int no = 0;
    for (; code == StatusCode::kCancelled; ++no) {
      test::GuardedBytes workspace(workspace_bytes(plan));
      int left = no;
      const auto last = [](void* n) { return (*static_cast<int*>(n))-- == 0; };
      code = estimate_blocks(plan, data.inputs(), mask, workspace.span(),
                             {.should_cancel = last, .cancel_context = &left})
                 .code();
      EXPECT_TRUE(workspace.guards_intact());
    }
    EXPECT_EQ(code, StatusCode::kOk);
    EXPECT_GT(no, 10);
  }
}

}  // namespace
}  // namespace tokensieve
