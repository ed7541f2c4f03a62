// Stage attend: known answers, and the two-pass form of local fill against the direct one.
#include "ref/attend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/case_data.h"
#include "support/compare.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::CaseData;
using testing::ElementsAre;

constexpr double kInf = std::numeric_limits<double>::infinity();

Plan ref_plan(const AttentionCase& c) {
  return make_plan(c.shape, c.select, {.backend = Backend::kRef}).value();
}

// Attention over `tokens` only, written independently of src/ref: long double, no shared helper.
struct RowResult {
  std::vector<double> out;
  double lse = -kInf;
};
RowResult attention_row(const AttentionCase& c, const CaseData& data, int64_t h, int64_t i,
                        const std::vector<int64_t>& tokens) {
  const int64_t dim = c.shape.head_dim;
  const int64_t kv_head = h * c.shape.num_kv_heads / c.shape.num_q_heads;
  const long double scale = 1.0f / std::sqrt(static_cast<float>(dim));  // sm_scale is f32
  std::vector<long double> out(dim, 0.0L);
  long double sum = 0.0L;
  for (int64_t j : tokens) {
    long double s = 0.0L;
    for (int64_t d = 0; d < dim; ++d) {
      s += static_cast<long double>(data.q.at(0, i, h, d)) * data.k.at(0, j, kv_head, d);
    }
    const long double weight = std::exp(scale * s);
    sum += weight;
    for (int64_t d = 0; d < dim; ++d) out[d] += weight * data.v.at(0, j, kv_head, d);
  }
  RowResult result;
  for (long double x : out) result.out.push_back(tokens.empty() ? 0.0 : double(x / sum));
  if (!tokens.empty()) result.lse = static_cast<double>(std::log(sum));
  return result;
}

std::vector<double> row_of(const AttentionCase& c, const ref::OracleResult& r, int64_t h,
                           int64_t i) {
  const auto begin = r.out.begin() + (i * c.shape.num_q_heads + h) * c.shape.head_dim;
  return {begin, begin + c.shape.head_dim};
}

// The definition of method.md and local-fill.md, by membership tests.
std::vector<int64_t> tokens_of(const Plan& plan, const std::vector<int32_t>& kept, int64_t p) {
  const auto in_set = [&](int64_t j) { return std::count(kept.begin(), kept.end(), j) > 0; };
  const SelectConfig& c = plan.select;
  const int64_t window = std::max<int64_t>(0, 64 * (p / 64) - c.local_window);
  std::vector<int64_t> tokens;
  for (int64_t j = 0; j <= p; ++j) {
    bool sees = false;
    if (c.queries == Queries::kAll) {
      sees = p >= plan.shape.seqlen_kv - c.obs_window || in_set(j);
    } else if (c.fill == Fill::kZero) {
      sees = in_set(p) && in_set(j);
    } else {
      sees = j < c.sinks || j >= window || (in_set(p) && in_set(j));
    }
    if (sees) tokens.push_back(j);
  }
  return tokens;
}

class RefAttendTest : public testing::TestWithParam<const char*> {
 protected:
  AttentionCase find() {
    for (const AttentionCase& c : test::all_cases()) {
      if (c.name == GetParam()) return c;
    }
    ADD_FAILURE() << "no case " << GetParam();
    return {};
  }
};

TEST_P(RefAttendTest, EveryRowIsSoftmaxOverItsTokens) {
  const AttentionCase c = find();
  const CaseData data = test::make_data(c, 3);
  const Plan plan = ref_plan(c);
  const ref::OracleResult r = test::run_oracle(plan, data);
  for (int64_t h = 0; h < c.shape.num_q_heads; ++h) {
    for (int64_t i = 0; i < c.shape.seqlen_q; i += 7) {
      const int64_t position = c.shape.seqlen_kv - c.shape.seqlen_q + i;
      std::vector<int64_t> tokens(position + 1);
      std::iota(tokens.begin(), tokens.end(), 0);
      if (plan.path == Path::kSparse) {
        tokens = tokens_of(plan, r.sequences[0].kept_of(plan, h), position);
      }
      const RowResult expected = attention_row(c, data, h, i, tokens);
      ASSERT_TRUE(test::close(row_of(c, r, h, i), expected.out, 1e-13, {c.shape.head_dim}))
          << "head " << h << ", row " << i;
      const double lse = r.lse[h * c.shape.seqlen_q + i];
      if (tokens.empty()) {
        ASSERT_EQ(lse, -kInf);
      } else {
        ASSERT_NEAR(lse, expected.lse, 1e-12);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, RefAttendTest,
                         testing::Values("dense", "dense_suffix37of211", "zero_head", "zero_layer",
                                         "local_head", "local_kv", "local_suffix",
                                         "local_window0", "local_sinks0", "local_sinks64",
                                         "local_tau_window_odd_suffix", "chunk_head", "chunk_layer",
                                         "chunk_local_ignored", "chunk_is_window",
                                         "chunk_window_odd"),
                         [](const auto& info) { return std::string(info.param); });

// local-fill.md section 1: a local pass, a compact pass with a prefix limit per row, and a merge
// give the direct form's rows.
TEST(RefAttend, LocalFillInTwoPasses) {
  AttentionCase c = {"two_pass", test::self_attention(700, 2, 1, 32), test::small_select()};
  c.select.fill = Fill::kLocal;
  const CaseData data = test::make_data(c, 11);
  const Plan plan = ref_plan(c);
  const ref::OracleResult r = test::run_oracle(plan, data);
  ASSERT_FALSE(r.sequences[0].dense());
  int64_t merged_rows = 0;
  for (int64_t h = 0; h < c.shape.num_q_heads; ++h) {
    const std::vector<int32_t>& kept = r.sequences[0].kept_of(plan, h);
    const auto first = std::lower_bound(kept.begin(), kept.end(), c.select.sinks);
    for (int64_t i = 0; i < c.shape.seqlen_q; ++i) {
      const int64_t window = std::max<int64_t>(0, 64 * (i / 64) - c.select.local_window);
      std::vector<int64_t> local;
      for (int64_t j = 0; j <= i; ++j) {
        if (j < c.select.sinks || j >= window) local.push_back(j);
      }
      RowResult merged = attention_row(c, data, h, i, local);
      const auto limit = std::lower_bound(kept.begin(), kept.end(), window);
      if (std::binary_search(kept.begin(), kept.end(), i) && first < limit) {
        ++merged_rows;
        const RowResult compact = attention_row(c, data, h, i, {first, limit});
        const double m = std::max(merged.lse, compact.lse);
        const double a = std::exp(merged.lse - m);
        const double b = std::exp(compact.lse - m);
        for (int64_t d = 0; d < c.shape.head_dim; ++d) {
          merged.out[d] = (a * merged.out[d] + b * compact.out[d]) / (a + b);
        }
        merged.lse = m + std::log(a + b);
      }
      ASSERT_TRUE(test::close(row_of(c, r, h, i), merged.out, 1e-14, {c.shape.head_dim}))
          << "head " << h << ", row " << i;
      ASSERT_NEAR(r.lse[h * c.shape.seqlen_q + i], merged.lse, 1e-13);
    }
  }
  EXPECT_GT(merged_rows, 50);
}

TEST(RefAttend, VisibleKeysOfLocalFill) {
  AttentionCase c = {"local", test::self_attention(600, 1, 1, 16), test::small_select()};
  c.select.fill = Fill::kLocal;
  c.select.sinks = 2;
  const Plan plan = ref_plan(c);
  const std::vector<int32_t> kept = {0, 5, 150, 200, 300, 599};
  // Row 193 is dropped: block 192, window from 128.
  std::vector<int32_t> keys = ref::visible_keys(plan, false, kept, 193);
  EXPECT_EQ(keys.size(), 2u + 193 - 128 + 1);
  EXPECT_THAT(std::vector<int32_t>(keys.begin(), keys.begin() + 4), ElementsAre(0, 1, 128, 129));
  // Row 300 is kept: block 256, window from 192; 5 and 150 lie between.
  keys = ref::visible_keys(plan, false, kept, 300);
  EXPECT_THAT(std::vector<int32_t>(keys.begin(), keys.begin() + 6),
              ElementsAre(0, 1, 5, 150, 192, 193));
  EXPECT_EQ(keys.back(), 300);
  // The first rows see all there is, sinks included once.
  EXPECT_THAT(ref::visible_keys(plan, false, kept, 1), ElementsAre(0, 1));
  EXPECT_EQ(ref::visible_keys(plan, false, kept, 127).size(), 128u);
}

TEST(RefAttend, EqualLogitsGiveTheMean) {
  const AttentionCase c = {"ties",
                           test::self_attention(50, 2, 1, 16),
                           {.enabled = false},
                           DenseReason::kDisabled,
                           test::Layout::kBhsd,
                           test::Content::kTies};
  const CaseData data = test::make_data(c, 5);
  const ref::OracleResult r = test::run_oracle(c, data);
  for (int64_t i = 0; i < 50; ++i) {
    double mean = 0.0;
    for (int64_t j = 0; j <= i; ++j) mean += data.v.at(0, j, 0, 3) / static_cast<double>(i + 1);
    EXPECT_NEAR(row_of(c, r, 1, i)[3], mean, 1e-14);
    EXPECT_NEAR(r.lse[50 + i], std::log(i + 1.0), 1e-14);
  }
}

// A sink as strong as all keys together halves the output.
TEST(RefAttend, SinksTakeTheirShare) {
  const AttentionCase c = {"sinks",
                           test::self_attention(8, 1, 1, 16),
                           {.enabled = false},
                           DenseReason::kDisabled,
                           test::Layout::kBshd,
                           test::Content::kTies};
  CaseData data = test::make_data(c, 5);
  const ref::OracleResult without = test::run_oracle(c, data);
  data.sink_logits = {static_cast<float>(std::log(8.0))};
  const ref::OracleResult with = test::run_oracle(c, data);
  EXPECT_NEAR(row_of(c, with, 0, 7)[2], row_of(c, without, 0, 7)[2] / 2, 1e-7);
  EXPECT_NEAR(with.lse[7], std::log(16.0), 1e-6);
}

TEST(RefAttend, SoftcapBoundsTheLogits) {
  AttentionCase c = {"softcap", test::self_attention(33, 1, 1, 16)};
  c.shape.softcap = 1e-6f;  // every logit is nearly 0: the mean
  const CaseData data = test::make_data(c, 5);
  const ref::OracleResult r = test::run_oracle(c, data);
  EXPECT_NEAR(r.lse[32], std::log(33.0), 1e-5);
}

// Bias: the causal mask in f16 gives causal attention; slopes scale it; the masked row is zero.
TEST(RefAttend, BiasMasksAndAdds) {
  AttentionCase c = {"bias", test::self_attention(40, 2, 1, 16)};
  c.shape.causal = false;
  c.bias = c.slopes = true;
  CaseData data = test::make_data(c, 9);
  const ref::OracleResult biased = test::run_oracle(c, data);
  for (int64_t h = 0; h < 2; ++h) {
    EXPECT_THAT(row_of(c, biased, h, 20), testing::Each(0.0));
    EXPECT_EQ(biased.lse[h * 40 + 20], -kInf);
  }
  data.bias_slopes = {0.0f, 0.0f};  // -inf still masks
  const ref::OracleResult masked = test::run_oracle(c, data);
  AttentionCase causal = c;
  causal.bias = causal.slopes = false;
  causal.shape.causal = true;
  const ref::OracleResult expected = test::run_oracle(causal, test::make_data(causal, 9));
  EXPECT_EQ(row_of(c, masked, 1, 39), row_of(c, expected, 1, 39));
  EXPECT_NE(row_of(c, biased, 1, 39), row_of(c, expected, 1, 39));
}

TEST(RefAttend, NanStaysInItsRowsAndHeads) {
  AttentionCase c = {"nan", test::self_attention(60, 4, 2, 16)};
  c.content = test::Content::kNanInK;
  const ref::OracleResult r = test::run_oracle(c, test::make_data(c, 2));
  for (int64_t h = 0; h < 4; ++h) {
    for (int64_t i = 0; i < 60; ++i) {
      const bool sees = h < 2 && i >= 20;  // kv head 0, token 60 / 3
      EXPECT_EQ(std::isnan(row_of(c, r, h, i)[0]), sees) << "head " << h << ", row " << i;
    }
  }
}

}  // namespace
}  // namespace tokensieve
