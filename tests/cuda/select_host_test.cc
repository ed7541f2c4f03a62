// Budget, threshold and rank logic of the CUDA select, run on the host: cuda/select/*.h are the
// source that the device compiles. Against core/budget.h, and against the official code's index
// sets.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/budget.h"
#include "cuda/select/steps.h"
#include "cuda/select/words.h"
#include "cuda/serial_team.h"
#include "support/golden_files.h"
#include "verify/golden.h"

namespace tokensieve::cuda {
namespace {

constexpr auto kReference = Arithmetic::kReferenceRounding;

struct Keys {
  const std::vector<float>* row;
  Normaliser normaliser;
  int begin = 0;
  uint32_t key(int i) const {
    return i >= begin && i < static_cast<int>(row->size()) ? normaliser.key((*row)[i]) : kNoKey;
  }
  int quads() const { return (static_cast<int>(row->size()) + 3) / 4; }
  KeyQuad quad(int i) const {
    return {key(4 * i), key(4 * i + 1), key(4 * i + 2), key(4 * i + 3)};
  }
};

RowSummary summary(const std::vector<float>& row) {
  RowSummary all = RowSummary::empty();
  for (float x : row) all.add({fixed_point(score_key(x)), score_key(x), score_key(x)});
  return all;
}

// What select_kernel does, by a team of one.
class HostSelect {
 public:
  explicit HostSelect(const SelectConfig& select)
      : select_(select), reference_(select.arithmetic == kReference) {}

  // As tokensieve::drop_count, but on the f32 mean and without the "one more".
  int64_t droppable_tokens(const std::vector<float>& mean) {
    const RowSummary row = summary(mean);
    const Keys keys = {&mean, normaliser_of(row, reference_)};
    return cuda::droppable_tokens(team_, bins_, &turn_, keys, row,
                                  static_cast<int64_t>(mean.size()), select_.tau, reference_);
  }

  BudgetRule rule() const {
    return {.budget = select_.budget,
            .keep_ratio = select_.keep_ratio,
            .keep_count = select_.keep_count,
            .min_keep = select_.min_keep,
            .protect_first = select_.protect_first,
            .keep_limit = 1.0,
            .capacity = int64_t{1} << 30};
  }

  std::vector<int32_t> top(const std::vector<float>& ranked, int64_t keep, bool normalise) {
    const int size = static_cast<int>(ranked.size());
    const int protect = static_cast<int>(std::min<int64_t>(select_.protect_first, keep));
    const RowSummary row = summary(ranked);
    const Keys keys = {&ranked, normaliser_of(row, normalise), protect};
    const Threshold threshold = threshold_of(team_, bins_, &turn_, keys, row, size,
                                             keep - protect, reference_);
    std::vector<int32_t> kept;
    RankedWord word = {};
    for (int first = 0; first < size; first += 32) {
      word.above = word.equal = 0;
      for (int i = first; i < std::min(first + 32, size); ++i) {
        if (keys.key(i) > threshold.key) word.above |= 1u << (i - first);
        if (keys.key(i) == threshold.key) word.equal |= 1u << (i - first);
      }
      EXPECT_EQ(word.rank(threshold.ties), kept.size());
      for (int bit = 0; bit < 32; ++bit) {
        if (word.kept(threshold.ties) >> bit & 1) kept.push_back(first + bit);
      }
      word.above_before += std::popcount(word.above);
      word.equal_before += std::popcount(word.equal);
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

// ---- numbers
// -------------------------------------------------------------------------------------
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

// ---- budget and select on made-up scores
// ---------------------------------------------------------
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
  } else if (sum > 8000.0) {
    for (float& value : x) value = static_cast<float>(value * 8000.0 / sum);
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
        if (std::get<0>(GetParam()) == "uniform") {
          EXPECT_EQ(dropped, want) << "tau " << tau;
        }
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

// ---- a cluster of threads: does the search wait where it must? (with -fsanitize=thread above all)
// --
constexpr int kRanks = 3;
constexpr int kThreadsPerRank = 4;

// What the threads of a cluster share.
struct ThreadCluster {
  std::array<SearchBins, kRanks> bins = {};
  std::barrier<> all{kRanks * kThreadsPerRank};
  std::array<std::barrier<>, kRanks> ranks{std::barrier<>{kThreadsPerRank},
                                           std::barrier<>{kThreadsPerRank},
                                           std::barrier<>{kThreadsPerRank}};
  // Scans, two in turn.
  std::array<std::array<std::array<std::array<uint64_t, 2>, kThreadsPerRank>, 2>, kRanks> parts;
};

class ThreadTeam {
 public:
  ThreadTeam(ThreadCluster& cluster, int rank, int thread)
      : cluster_(cluster), rank_(rank), thread_(thread) {}
  int thread() const { return thread_; }
  int threads() const { return kThreadsPerRank; }
  int lane() const { return 0; }
  uint64_t lane_sum(uint64_t x) const { return x; }
  void sync() const { cluster_.ranks[rank_].arrive_and_wait(); }
  void cluster_sync() const { cluster_.all.arrive_and_wait(); }
  uint32_t add(uint32_t* where, uint32_t value) const {
    return std::atomic_ref<uint32_t>(*where).fetch_add(value);
  }
  void least_of(uint32_t* where, uint32_t value) const {
    std::atomic_ref<uint32_t> least(*where);
    uint32_t old = least.load();
    while (value < old && !least.compare_exchange_weak(old, value)) {
    }
  }
  uint64_t total(const uint32_t* where) const {
    uint64_t sum = 0;
    for (int rank = 0; rank < kRanks; ++rank) sum += *remote(where, rank);
    return sum;
  }
  uint32_t concatenate(const uint32_t* own, const uint32_t* size, uint32_t* all) const {
    uint32_t begin = 0;
    for (int rank = 0; rank < kRanks; ++rank) {
      const uint32_t count = *remote(size, rank);
      for (uint32_t i = thread_; i < count; i += kThreadsPerRank) {
        all[begin + i] = *remote(own + i, rank);
      }
      begin += count;
    }
    return begin;
  }
  template <class T>
  T exclusive_scan(const T& own, T* all) {
    static_assert(sizeof(T) <= 16);
    auto& parts = cluster_.parts[rank_][turn_];
    turn_ ^= 1;
    std::memcpy(&parts[thread_], &own, sizeof own);
    sync();
    T before = {};
    *all = {};
    for (int i = 0; i < kThreadsPerRank; ++i) {
      T part;
      std::memcpy(&part, &parts[i], sizeof part);
      if (i == thread_) before = *all;
      *all = *all + part;
    }
    return before;
  }

 private:
  const uint32_t* remote(const uint32_t* own, int rank) const {
    const auto offset = reinterpret_cast<const char*>(own) -
                        reinterpret_cast<const char*>(&cluster_.bins[rank_]);
    return reinterpret_cast<const uint32_t*>(
        reinterpret_cast<const char*>(&cluster_.bins[rank]) + offset);
  }

  ThreadCluster& cluster_;
  int rank_;
  int thread_;
  int turn_ = 0;
};

struct SearchResult {
  int64_t dropped;
  Threshold threshold;
  bool operator==(const SearchResult& other) const {
    return dropped == other.dropped && threshold.key == other.threshold.key &&
           threshold.ties == other.threshold.ties;
  }
};

template <class Team>
SearchResult search(Team team, SearchBins& bins, const std::vector<float>& part,
                    const RowSummary& row, int64_t size, double tau, int64_t wanted,
                    bool reference) {
  int turn = 0;
  const Keys keys = {&part, {false, 1.0f}};
  const BinRange range = range_of(row, keys.normaliser, size, reference);
  SearchResult result;
  result.dropped = droppable(team, bins, &turn, keys, size, range,
                             mass_limit(tau, row.sum, false), reference);
  result.threshold = find_threshold(team, bins, &turn, keys, wanted, range, reference);
  return result;
}

TEST_P(SelectHostTest, ClusterFindsWhatOneThreadFinds) {
  for (const bool reference : {false, true}) {
    std::vector<float> all = row();
    if (reference) {
      for (float& x : all) x = round_bf16(x);
    }
    const int64_t size = static_cast<int64_t>(all.size());
    const RowSummary whole = summary(all);
    SearchBins bins = {};
    for (const double tau : {0.005, 0.5}) {
      const int64_t wanted = std::max<int64_t>(1, size / 3);
      const SearchResult want =
          search(SerialTeam(), bins, all, whole, size, tau, wanted, reference);
      auto cluster = std::make_unique<ThreadCluster>();
      std::array<std::vector<float>, kRanks> parts;
      for (int64_t i = 0; i < size; ++i) parts[i * kRanks / size].push_back(all[i]);
      std::array<SearchResult, kRanks * kThreadsPerRank> got;
      std::vector<std::thread> threads;
      for (int i = 0; i < kRanks * kThreadsPerRank; ++i) {
        threads.emplace_back([&, i] {
          const int rank = i / kThreadsPerRank;
          got[i] = search(ThreadTeam(*cluster, rank, i % kThreadsPerRank), cluster->bins[rank],
                          parts[rank], whole, size, tau, wanted, reference);
        });
      }
      for (std::thread& thread : threads) thread.join();
      for (const SearchResult& result : got) EXPECT_TRUE(result == want) << "tau " << tau;
    }
  }
}

// ---- the official code's index sets
// --------------------------------------------------------------
class OfficialTest : public testing::TestWithParam<std::pair<const std::string, std::string>> {};

TEST_P(OfficialTest, ReferenceRoundingKeepsTheOfficialSets) {
  Result<verify::GoldenCase> loaded = verify::load_golden(GetParam().second);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  const verify::GoldenCase& golden = loaded.value();
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
