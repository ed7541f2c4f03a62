// The attend kernel of every instruction set against a softmax in double: lists of key ranges,
// limits per row, and values that no row may see.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cpu/layout.h"
#include "support/case_data.h"
#include "support/compare.h"
#include "support/isas.h"
#include "tokensieve/backend.h"

namespace tokensieve::cpu {
namespace {

constexpr int kKeys = 640;  // ten panels

struct Case {
  const char* name;
  std::vector<KeyRange> ranges;
  bool limits;  // row r sees keys before 300 + 3 r
};

// A tile and keys of its own, with a NaN in the value of every key that no row may see.
class AttendTile {
 public:
  AttendTile(const Kernels& kernels, int rows, int dim)
      : kernels_(kernels), rows_(rows), dim_(dim) {
    test::Random random(rows * 1000 + dim);
    q_.resize(rows * dim);
    k_.resize(kKeys * dim);
    v_.resize(kKeys * dim);
    for (std::vector<float>* x : {&q_, &k_, &v_}) {
      for (float& value : *x) value = static_cast<float>(random.normal() / 4);
    }
  }

  bool sees(const Case& c, int row, int key) const {
    if (c.limits && key >= limit(row)) return false;
    for (const KeyRange& range : c.ranges) {
      if (key >= range.begin && key < range.end) return true;
    }
    return false;
  }

  // Rows that see keys of NaN only are NaN, rows that see none are 0.
  void check_nan(const Case& c) {
    std::fill(k_.begin(), k_.end(), NAN);
    const std::vector<float> actual = attend(c, v_);
    for (int r = 0; r < rows_; ++r) {
      bool any = false;
      for (int key = 0; key < kKeys; ++key) any |= sees(c, r, key);
      EXPECT_EQ(std::isnan(actual[r * dim_]), any) << c.name << ", row " << r;
    }
  }

  void check(const Case& c) {
    std::vector<float> values = v_;
    for (int key = 0; key < kKeys; ++key) {
      if (!sees(c, rows_ - 1, key)) values[key * dim_] = NAN;  // the last row sees the most
    }
    const std::vector<float> actual = attend(c, values);
    std::vector<double> expected;
    for (int r = 0; r < rows_; ++r) append_row(c, r, expected);
    EXPECT_TRUE(test::close(actual, expected, 1e-5, {rows_, dim_})) << c.name;
  }

 private:
  static int limit(int row) { return 300 + 3 * row; }

  std::vector<float> attend(const Case& c, const std::vector<float>& values) {
    const AttentionShape shape = {.seqlen_q = kKeys, .seqlen_kv = kKeys, .num_q_heads = 1,
                                  .num_kv_heads = 1, .head_dim = dim_};
    const Plan plan = make_plan(shape, {.enabled = false}, {.backend = Backend::kCpu}).value();
    std::vector<std::byte> workspace(workspace_bytes(plan));
    const Layout layout = make_layout(plan, kernels_, workspace.data());
    ThreadScratch scratch = thread_scratch(layout, dim_, 0);
    float* kt = reinterpret_cast<float*>(layout.panels.identity);
    float* v = kt + int64_t{kKeys} * dim_;
    const int64_t bytes = dim_ * static_cast<int64_t>(sizeof(float));
    const auto rows_of = [&](const std::vector<float>& x) {
      return Rows{.base = reinterpret_cast<const char*>(x.data()), .stride_bytes = bytes};
    };
    for (int key = 0; key < kKeys; key += kPanelKeys) {
      kernels_.pack_panel(rows_of(k_), rows_of(values), key, kPanelKeys, dim_,
                          kt + int64_t{key} * dim_, v + int64_t{key} * dim_);
    }
    Tile& tile = scratch.tile;
    tile.rows = rows_;
    std::fill_n(tile.q, (rows_ + kRowPadding) * dim_, 0.0f);
    std::fill_n(tile.o, (rows_ + kRowPadding) * dim_, 0.0f);
    std::fill_n(tile.m, rows_, kMasked);
    std::fill_n(tile.l, rows_, 0.0f);
    kernels_.load_rows(rows_of(q_), 0, rows_, dim_, kLog2E, tile.q);
    for (int r = 0; r < rows_; ++r) scratch.row_end[r] = limit(r);
    kernels_.attend(tile, {kt, v, c.ranges, c.limits ? scratch.row_end : nullptr}, {});
    std::vector<float> out(tile.o, tile.o + rows_ * dim_);
    for (int i = 0; i < rows_ * dim_; ++i) {
      const float sum = tile.l[i / dim_];
      out[i] = sum == 0.0f ? 0.0f : out[i] / sum;
    }
    return out;
  }

  void append_row(const Case& c, int row, std::vector<double>& out) const {
    std::vector<double> sum(dim_, 0.0);
    double total = 0.0;
    for (int key = 0; key < kKeys; ++key) {
      if (!sees(c, row, key)) continue;
      double logit = 0.0;
      for (int d = 0; d < dim_; ++d) logit += double{q_[row * dim_ + d]} * k_[key * dim_ + d];
      total += std::exp(logit);
      for (int d = 0; d < dim_; ++d) sum[d] += std::exp(logit) * v_[key * dim_ + d];
    }
    for (double x : sum) out.push_back(total == 0.0 ? 0.0 : x / total);
  }

  const Kernels& kernels_;
  int rows_, dim_;
  std::vector<float> q_, k_, v_;
};

const Case kCases[] = {
    {"all", {{0, kKeys}}, false},
    {"all_limited", {{0, kKeys}}, true},
    {"nothing", {}, false},
    {"empty", {{0, 0}, {128, 128}}, true},
    {"one_key", {{77, 78}}, false},
    {"blocks", {{0, 64}, {192, 256}, {320, 384}, {576, 640}}, false},
    {"blocks_limited", {{0, 64}, {192, 256}, {320, 384}, {576, 640}}, true},
    {"ragged", {{3, 17}, {61, 70}, {130, 513}}, false},
    {"ragged_limited", {{3, 17}, {61, 70}, {130, 513}}, true},
    {"beyond_the_limits", {{0, 64}, {600, 640}}, true},
};

TEST(CpuAttend, ListsOfRangesMatchASoftmax) {
  for (Isa isa : test::tested_isas()) {
    SCOPED_TRACE(isa_name(isa));
    for (int rows : {1, 5, 6, 7, 63, 64}) {
      for (int dim : {16, 64, 80}) {
        SCOPED_TRACE(testing::Message() << rows << " rows, head_dim " << dim);
        AttendTile tile(*kernels_for(isa), rows, dim);
        for (const Case& c : kCases) tile.check(c);
      }
    }
  }
}

TEST(CpuAttend, KeysOfNanAreNotNothing) {
  for (Isa isa : test::tested_isas()) {
    SCOPED_TRACE(isa_name(isa));
    AttendTile tile(*kernels_for(isa), 7, 16);
    for (const Case& c : kCases) tile.check_nan(c);
  }
}

}  // namespace
}  // namespace tokensieve::cpu
