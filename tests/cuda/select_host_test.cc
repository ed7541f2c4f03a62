// Budget, threshold and rank logic of the CUDA select, run on the host: cuda/budget.h is the source
// that the device compiles. Against core/budget.h, and against the official code's index sets.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/budget.h"
#include "cuda/budget.h"
#include "support/golden_files.h"
#include "tokensieve/golden.h"

namespace tokensieve::cuda {
namespace {

constexpr auto kReference = Arithmetic::kReferenceRounding;

struct Keys {
  const std::vector<float>* row;
  Normaliser normaliser;
  uint32_t operator()(int i) const { return normaliser.key((*row)[i]); }
};

uint64_t fixed_sum(const std::vector<float>& row) {
  uint64_t sum = 0;
  for (float x : row) sum += fixed_point(score_key(x));
  return sum;
}

// What select_kernel does, by a team of one.
class HostSelect {
 public:
  explicit HostSelect(const SelectConfig& select)
      : select_(select), reference_(select.arithmetic == kReference) {}

  // As tokensieve::drop_count, but on the f32 mean and without the "one more".
  int64_t droppable_tokens(const std::vector<float>& mean) {
    const uint64_t sum = fixed_sum(mean);
    const Keys keys = {&mean, reference_ ? Normaliser::of_sum(sum) : Normaliser{false, 1.0f}};
    const int size = static_cast<int>(mean.size());
    return droppable(team_, bins_, &turn_, keys, size, size,
                     mass_limit(select_.tau, sum, reference_), reference_);
  }

  BudgetRule rule() const {
    return {static_cast<int32_t>(select_.budget), select_.keep_ratio,    select_.keep_count,
            select_.min_keep,                     select_.protect_first, 1.0,
            int64_t{1} << 30};
  }

  std::vector<int32_t> top(const std::vector<float>& ranked, int64_t keep, bool normalise) {
    const int size = static_cast<int>(ranked.size());
    const int protect = static_cast<int>(std::min<int64_t>(select_.protect_first, keep));
    const Keys keys = {&ranked, normalise ? Normaliser::of_sum(fixed_sum(ranked))
                                          : Normaliser{false, 1.0f}};
    Threshold threshold = {0xffffffffu, 0};
    if (keep > protect) {
      threshold = find_threshold(team_, bins_, &turn_, keys, protect, size, keep - protect,
                                 reference_);
    }
    std::vector<int32_t> kept;
    RankedWord word = {};
    for (int first = 0; first < size; first += 32) {
      EXPECT_EQ(word.rank(threshold.ties), kept.size());
      for (int i = first; i < std::min(first + 32, size); ++i) {
        const bool above = i < protect || keys(i) > threshold.key;
        const bool equal = !above && keys(i) == threshold.key;
        if (above || (equal && word.equal_before < threshold.ties)) kept.push_back(i);
        word.above_before += above;
        word.equal_before += equal;
      }
    }
    return kept;
  }

 private:
  SelectConfig select_;
  bool reference_;
  SerialTeam team_;
  SearchBins bins_ = {};
  int turn_ = 0;
};

// ---- numbers -------------------------------------------------------------------------------------
TEST(FixedPoint, RoundsToTheNearest) {
  for (const float x : {0.0f, 1.0f, 0.5f, 3.5f, 65535.0f, 7.6e-6f, 1.0f / 3, 0x1p-48f, 0x1p-49f,
                        0x1.8p-48f, 0x1p-50f, 0x1.fffffep-50f, 0x1p-80f, 1e-40f}) {
    const double want = std::floor(static_cast<double>(x) * 0x1p48 + 0.5);
    EXPECT_EQ(static_cast<double>(fixed_point(score_key(x))), want) << x;
  }
  EXPECT_EQ(fixed_point(score_key(1e9f)), fixed_point(score_key(65535.996f)));
}

TEST(Bf16, RoundsAsTheHostDoes) {
  std::mt19937 random(1);
  for (int i = 0; i < 100000; ++i) {
    const float x = bits_float(random() & 0x7f7fffffu);
    EXPECT_EQ(to_bf16(x), round_bf16(x)) << x;
  }
}

TEST(MassLimit, IsTheFirstSumThatIsNotBelow) {
  EXPECT_EQ(mass_limit(0.5, 1 << 20, true), uint64_t{1} << 47);
  EXPECT_EQ(mass_limit(0.0, 1 << 20, false), 0u);
  const uint64_t sum = uint64_t{1} << 48;
  const double exact = 0.005 * (1.0 + 1e-8) * 0x1p48;
  const uint64_t limit = mass_limit(0.005, sum, false);
  EXPECT_GE(static_cast<double>(limit), exact);
  EXPECT_LT(static_cast<double>(limit) - 1.0, exact);
}

TEST(KeptPrefix, AgreesWithCore) {
  for (const BudgetPolicy policy :
       {BudgetPolicy::kTau, BudgetPolicy::kKeepRatio, BudgetPolicy::kKeepCount}) {
    for (const int64_t min_keep : {0, 5, 64, 5000}) {
      for (const int protect : {0, 4, 700}) {
        for (const int64_t drop : {0, 2, 500, 1000, 1001}) {
          SelectConfig select;
          select.budget = policy;
          select.keep_ratio = 0.37;
          select.keep_count = 300;
          select.min_keep = min_keep;
          select.protect_first = protect;
          const int64_t kept = kept_prefix(HostSelect(select).rule(), 1000,
                                           drop == 0 ? 0 : drop - 1);
          EXPECT_EQ(kept, keep_count(select, 1000, drop));
        }
      }
    }
  }
}

TEST(RunsDense, AtEveryLimit) {
  BudgetRule rule = HostSelect(SelectConfig{}).rule();
  EXPECT_TRUE(runs_dense(rule, 1000, 1000, 128));
  EXPECT_FALSE(runs_dense(rule, 1000, 999, 128));
  rule.keep_limit = 0.5005;
  EXPECT_FALSE(runs_dense(rule, 1000, 500, 128));
  EXPECT_TRUE(runs_dense(rule, 1000, 501, 128));
  rule.keep_limit = 1.0;
  rule.capacity = 640;
  EXPECT_FALSE(runs_dense(rule, 1000, 512, 128));
  EXPECT_TRUE(runs_dense(rule, 1000, 513, 128));
}

// ---- budget and select on made-up scores ---------------------------------------------------------
std::vector<float> scores(const std::string& kind, int size, int seed) {
  std::mt19937 random(seed);
  std::vector<float> x(size);
  double sum = 0.0;
  for (int i = 0; i < size; ++i) {
    const double uniform = (random() >> 8) * 0x1p-24;
    if (kind == "equal") x[i] = 1.0f;
    if (kind == "one-hot") x[i] = i == size / 3;
    if (kind == "zero") x[i] = 0.0f;
    if (kind == "ties") x[i] = static_cast<float>(random() % 6);
    if (kind == "uniform") x[i] = static_cast<float>(uniform);
    if (kind == "wide") x[i] = static_cast<float>(std::exp(24.0 * uniform));
    if (kind == "decay") x[i] = static_cast<float>(std::exp(-0.01 * i));
    sum += x[i];
  }
  if (sum > 0.0 && seed % 2 == 1) {
    for (float& value : x) value = static_cast<float>(value / sum);
  } else if (sum > 30000.0) {
    for (float& value : x) value = static_cast<float>(value * 30000.0 / sum);
  }
  return x;
}

struct MadeUp {
  std::string kind;
  int size;
  int seed;
};

class SelectHostTest : public testing::TestWithParam<std::tuple<std::string, int, int>> {
 protected:
  std::vector<float> row() const {
    const auto& [kind, size, seed] = GetParam();
    return scores(kind, size, seed);
  }
};

TEST_P(SelectHostTest, DropsAsCoreDoes) {
  for (const Arithmetic arithmetic : {Arithmetic::kFp32, kReference}) {
    std::vector<float> mean = row();
    if (arithmetic == kReference) {
      for (float& x : mean) x = round_bf16(x);
    }
    for (const double tau : {1e-6, 0.005, 0.05, 0.5, 0.9}) {
      SelectConfig select;
      select.tau = tau;
      select.arithmetic = arithmetic;
      const int64_t dropped = HostSelect(select).droppable_tokens(mean);
      std::vector<double> copy(mean.begin(), mean.end());
      int64_t want = drop_count(copy, tau, arithmetic);
      if (want > 0) --want;
      if (arithmetic == Arithmetic::kFp32) {
        // Equal scores may sum to the limit up to rounding: there one token more or less is right.
        EXPECT_NEAR(dropped, want, 1) << "tau " << tau;
        if (std::get<0>(GetParam()) == "uniform") EXPECT_EQ(dropped, want) << "tau " << tau;
      } else {
        // core adds f32 values one by one, here the sums are exact.
        EXPECT_NEAR(dropped, want, 1 + 2e-3 * static_cast<double>(mean.size())) << "tau " << tau;
      }
    }
  }
}

TEST_P(SelectHostTest, KeepsWhatCoreKeeps) {
  for (const Arithmetic arithmetic : {Arithmetic::kFp32, kReference}) {
    std::vector<float> ranked = row();
    if (arithmetic == kReference) {
      for (float& x : ranked) x = round_bf16(x);
    }
    const int64_t size = static_cast<int64_t>(ranked.size());
    for (const int64_t keep : {int64_t{1}, size / 7 + 1, size / 2 + 1, size - 1, size}) {
      for (const int protect : {0, 1, 40}) {
        SelectConfig select;
        select.arithmetic = arithmetic;
        select.protect_first = protect;
        std::vector<int32_t> want(keep);
        std::vector<float> scratch(ranked.size());
        top_tokens(ranked, keep, protect, false, scratch, want.data());
        EXPECT_EQ(HostSelect(select).top(ranked, keep, false), want)
            << "keep " << keep << " protect " << protect;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, SelectHostTest,
                         testing::Combine(testing::Values("equal", "one-hot", "zero", "ties",
                                                          "uniform", "wide", "decay"),
                                          testing::Values(1, 31, 32, 1000, 20011),
                                          testing::Values(1, 2)),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param) + "_" +
                                              std::to_string(std::get<1>(info.param)) + "_" +
                                              std::to_string(std::get<2>(info.param));
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// ---- the official code's index sets --------------------------------------------------------------
class OfficialTest : public testing::TestWithParam<std::pair<const std::string, std::string>> {};

TEST_P(OfficialTest, ReferenceRoundingKeepsTheOfficialSets) {
  Result<cli::GoldenCase> loaded = cli::load_golden(GetParam().second);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  const cli::GoldenCase& golden = loaded.value();
  if (golden.official_indices.empty()) GTEST_SKIP() << "no official_indices in this case";
  SelectConfig select = golden.select;
  select.arithmetic = kReference;
  const int64_t heads = golden.shape.num_q_heads;
  const int64_t prefix = golden.prefix_len();
  std::vector<float> pooled(heads * prefix);
  for (int64_t h = 0; h < heads; ++h) {
    smooth({golden.score.data() + h * prefix, static_cast<size_t>(prefix)}, select.pool_width,
           kReference, {&pooled[h * prefix], static_cast<size_t>(prefix)});
  }
  std::vector<double> wide(prefix);
  mean_rows(pooled.data(), heads, prefix, kReference, wide);
  HostSelect host(select);
  const std::vector<float> mean(wide.begin(), wide.end());
  const int64_t keep = kept_prefix(host.rule(), prefix, host.droppable_tokens(mean));
  std::vector<int32_t> all;
  for (int64_t h = 0; h < heads; ++h) {
    const std::vector<float> row(&pooled[h * prefix], &pooled[h * prefix] + prefix);
    const std::vector<int32_t> kept = host.top(row, keep, true);
    all.insert(all.end(), kept.begin(), kept.end());
    for (int64_t j = prefix; j < golden.shape.seqlen_kv; ++j) {
      all.push_back(static_cast<int32_t>(j));
    }
  }
  EXPECT_EQ(all, golden.official_indices);
}

INSTANTIATE_TEST_SUITE_P(Golden, OfficialTest, testing::ValuesIn(test::golden_files()),
                         [](const auto& info) { return info.param.first; });

}  // namespace
}  // namespace tokensieve::cuda
