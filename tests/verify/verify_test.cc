// `tokensieve verify` on golden files made here: other shapes, shares, fills and budgets than the
// committed ones pass, and each kind of damage is noticed.
#include "verify/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>

#include "core/work.h"
#include "ref/elements.h"
#include "support/case_data.h"
#include "support/safetensors_writer.h"
#include "verify/golden.h"

namespace tokensieve::verify {
namespace {

namespace fs = std::filesystem;
using test::AttentionCase;

// Makes a golden case of a case-table row with the oracle.
GoldenCase make_golden(const AttentionCase& c, uint64_t seed) {
  const AttentionShape& s = c.shape;
  const test::CaseData data = test::make_data(c, seed);
  const Plan plan = make_plan(s, c.select, {.backend = Backend::kRef}).value();
  const ref::OracleResult r = test::run_oracle(plan, data);
  const ref::Selection& chosen = r.sequences[0];
  GoldenCase g;
  g.shape = s;
  g.select = c.select;
  const auto bits = [](const test::Tensor& x) {  // [head, seq, dim], as kBhsd lies in memory
    const auto* first = static_cast<const uint16_t*>(x.view().data);
    return std::vector<uint16_t>(first, first + x.size());
  };
  g.q = bits(data.q);
  g.k = bits(data.k);
  g.v = bits(data.v);
  g.score.assign(chosen.token_score.begin(), chosen.token_score.end());
  g.pooled.assign(chosen.budget.pooled.begin(), chosen.budget.pooled.end());
  g.layer.assign(chosen.budget.layer.begin(), chosen.budget.layer.end());
  g.drop = chosen.budget.drop;
  g.keep = chosen.budget.keep;
  for (int64_t h = 0; h < s.num_q_heads; ++h) {
    const std::vector<int32_t>& set = chosen.kept_of(plan, h);
    g.indices.insert(g.indices.end(), set.begin(), set.end());
    for (int64_t i = 0; i < s.seqlen_q; ++i) {
      for (int64_t d = 0; d < s.head_dim; ++d) {
        const double x = r.out[(i * s.num_q_heads + h) * s.head_dim + d];
        g.output.push_back(ref::encode(x, ref::kF16));
      }
    }
  }
  g.kept = static_cast<int64_t>(g.indices.size()) / s.num_q_heads;
  g.pairs = std::llround(r.report.work * dense_pairs(s) * s.num_q_heads);
  return g;
}

test::SafeTensorsWriter writer_of(const GoldenCase& g) {
  const AttentionShape& s = g.shape;
  const SelectConfig& c = g.select;
  test::SafeTensorsWriter w;
  w.metadata = {{"window", std::to_string(c.obs_window)},
                {"pool", std::to_string(c.pool_width)},
                {"min_tokens", std::to_string(c.min_keep)},
                {"drop", std::to_string(g.drop)},
                {"keep", std::to_string(g.keep)},
                {"pairs", std::to_string(g.pairs)}};
  switch (c.budget) {
    case BudgetPolicy::kTau:
      w.metadata["coverage"] = std::to_string(c.tau);
      break;
    case BudgetPolicy::kKeepRatio:
      w.metadata["keep_ratio"] = std::to_string(c.keep_ratio);
      break;
    case BudgetPolicy::kKeepCount:
      w.metadata["keep_count"] = std::to_string(c.keep_count);
      break;
  }
  w.metadata["share"] = c.share == Share::kHead ? "head" : c.share == Share::kKv ? "kv" : "layer";
  if (c.fill == Fill::kLocal) {
    w.metadata["fill"] = "local";
    w.metadata["local_window"] = std::to_string(c.local_window);
    w.metadata["sinks"] = std::to_string(c.sinks);
  }
  const int64_t prefix = s.seqlen_kv - c.obs_window;
  w.add("q", "BF16", {s.num_q_heads, s.seqlen_q, s.head_dim}, g.q);
  w.add("k", "BF16", {s.num_kv_heads, s.seqlen_kv, s.head_dim}, g.k);
  w.add("v", "BF16", {s.num_kv_heads, s.seqlen_kv, s.head_dim}, g.v);
  w.add("score", "F32", {s.num_q_heads, prefix}, g.score);
  w.add("pooled", "F32", {s.num_q_heads, prefix}, g.pooled);
  w.add("layer", "F32", {prefix}, g.layer);
  w.add("indices", "I32", {s.num_q_heads, g.kept}, g.indices);
  w.add("output", "F16", {s.num_q_heads, s.seqlen_q, s.head_dim}, g.output);
  return w;
}

class VerifyTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "verify_test_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  AttentionCase small_case() const {
    AttentionCase c = {"small", test::self_attention(230, 4, 2, 32), test::small_select(),
                       DenseReason::kNone, test::Layout::kBhsd};
    c.shape.dtype = c.shape.kv_dtype = DType::kBF16;
    return c;
  }
  void write(const test::SafeTensorsWriter& writer, const char* name = "case") const {
    writer.write((folder_ / (std::string(name) + ".safetensors")).string());
  }
  int verify(const std::vector<std::string>& backends = {}, bool json = false) const {
    return run_verify({.dir = folder_.string(), .backends = backends, .json = json});
  }

  fs::path folder_;
};

TEST_F(VerifyTest, UnseenShapesSharesFillsAndBudgetsPass) {
  int number = 0;
  for (Share share : {Share::kHead, Share::kKv, Share::kLayer}) {
    for (Fill fill : {Fill::kZero, Fill::kLocal}) {
      for (BudgetPolicy budget :
           {BudgetPolicy::kTau, BudgetPolicy::kKeepRatio, BudgetPolicy::kKeepCount}) {
        AttentionCase c = small_case();
        c.select.share = share;
        c.select.fill = fill;
        c.select.budget = budget;
        c.select.keep_count = 31;
        c.select.pool_width = 3 + 2 * (number % 3);
        c.shape.head_dim = 16 * (1 + number % 5);
        c.shape.seqlen_q = c.shape.seqlen_kv = 200 + 13 * number;
        write(writer_of(make_golden(c, number)), ("case" + std::to_string(number)).c_str());
        ++number;
      }
    }
  }
  EXPECT_EQ(verify(), 0);
}

TEST_F(VerifyTest, ChunksPass) {
  AttentionCase c = small_case();
  c.select.fill = Fill::kLocal;
  for (const int64_t queries : {32, 101, 229}) {
    c.shape.seqlen_q = queries;
    write(writer_of(make_golden(c, 4)), ("chunk" + std::to_string(queries)).c_str());
  }
  EXPECT_EQ(verify(), 0);
}

TEST_F(VerifyTest, TheCommittedCasesPassOnEveryBackend) {
  const fs::path folder = fs::path(TOKENSIEVE_SOURCE_DIR) / "tests" / "golden";
  EXPECT_EQ(run_verify({.dir = folder.string()}), 0);
}

// A layer whose budget keeps everything runs dense.
TEST_F(VerifyTest, NothingToDropPasses) {
  AttentionCase c = small_case();
  GoldenCase g = make_golden(c, 1);
  g.select.tau = 0.000001;
  AttentionCase dense = c;
  dense.select = {.enabled = false};
  const ref::OracleResult r = test::run_oracle(dense, test::make_data(c, 1));
  g.drop = 0;
  g.keep = g.prefix_len();
  g.kept = g.shape.seqlen_kv;
  g.pairs = 4 * 230 * 231 / 2;
  g.indices.clear();
  for (int64_t i = 0; i < 4 * g.kept; ++i) g.indices.push_back(i % g.kept);
  g.output.clear();
  for (int64_t h = 0; h < 4; ++h) {
    for (int64_t i = 0; i < g.shape.seqlen_q; ++i) {
      for (int64_t d = 0; d < 32; ++d) {
        g.output.push_back(ref::encode(r.out[(i * 4 + h) * 32 + d], ref::kF16));
      }
    }
  }
  write(writer_of(g));
  EXPECT_EQ(verify(), 0);
}

TEST_F(VerifyTest, NoticesEveryKindOfDamage) {
  const GoldenCase good = make_golden(small_case(), 2);
  const auto verdict = [&](const std::function<void(GoldenCase&)>& damage) {
    GoldenCase g = good;
    damage(g);
    write(writer_of(g));
    return verify({"ref"});
  };
  EXPECT_EQ(verdict([](GoldenCase&) {}), 0);
  EXPECT_EQ(verdict([](GoldenCase& g) { g.score[5] *= 1.001f; }), 1);
  EXPECT_EQ(verdict([](GoldenCase& g) { g.pooled[7] = NAN; }), 1);
  EXPECT_EQ(verdict([](GoldenCase& g) { g.layer[7] *= 1.01f; }), 1);
  EXPECT_EQ(verdict([](GoldenCase& g) { g.drop += 1; }), 1);
  EXPECT_EQ(verdict([](GoldenCase& g) { g.pairs -= 1; }), 1);
  EXPECT_EQ(verdict([](GoldenCase& g) { g.q[230 * 32 - 3] ^= 0x8000; }), 1);
  EXPECT_EQ(verdict([](GoldenCase& g) { g.output[1234] ^= 0x4000; }), 1);
  EXPECT_EQ(verdict([](GoldenCase& g) {
              for (int32_t j = 0; j < g.prefix_len();
                   ++j) {  // another token instead of one that is kept
                if (std::binary_search(g.indices.begin(), g.indices.begin() + g.kept, j)) continue;
                int32_t* after = std::upper_bound(g.indices.data(), g.indices.data() + g.kept, j);
                if (after == g.indices.data()) continue;
                after[-1] = j;
                return;
              }
            }),
            1);
}

TEST_F(VerifyTest, MalformedCasesAreNamedAndFail) {
  const GoldenCase good = make_golden(small_case(), 2);
  const auto message = [&](const char* key, const char* value) {
    test::SafeTensorsWriter w = writer_of(good);
    w.metadata[key] = value;
    write(w);
    EXPECT_EQ(verify({}, /*json=*/true), 1);
    return std::string(load_golden((folder_ / "case.safetensors").string()).status().message());
  };
  using testing::HasSubstr;
  EXPECT_THAT(message("window", "x"), HasSubstr("\"window\" is \"x\""));
  EXPECT_THAT(message("window", "100000"), HasSubstr("obs_window"));
  EXPECT_THAT(message("pool", "4"), HasSubstr("pool_width"));
  EXPECT_THAT(message("coverage", "nan"), HasSubstr("tau"));
  EXPECT_THAT(message("keep", "-1"), HasSubstr("\"keep\" is -1"));
  EXPECT_THAT(message("keep", "9223372036854775807"), HasSubstr("\"keep\" is 9223372036854775807"));
  EXPECT_THAT(message("keep", "20"), HasSubstr("tensor \"indices\""));
  EXPECT_THAT(message("share", "all"), HasSubstr("allowed: head, kv, layer"));
  EXPECT_THAT(message("min_tokens", "1e3"), HasSubstr("min_tokens"));
  EXPECT_THAT(message("pairs", "-1"), HasSubstr("\"pairs\" is -1"));

  GoldenCase chunk = good;
  chunk.shape.seqlen_q = 40;
  chunk.q.resize(4 * 40 * 32);
  chunk.output.resize(4 * 40 * 32);
  write(writer_of(chunk));
  EXPECT_THAT(load_golden((folder_ / "case.safetensors").string()).status().message(),
              HasSubstr("fill = zero takes whole prompts"));

  GoldenCase bad = good;
  bad.indices[3] = 100000;
  write(writer_of(bad));
  EXPECT_EQ(verify(), 1);
}

TEST_F(VerifyTest, WrongArgumentsAreUsageErrors) {
  EXPECT_EQ(verify(), 2);  // an empty folder
  write(writer_of(make_golden(small_case(), 2)));
  EXPECT_EQ(verify({"gpu"}), 2);
  EXPECT_EQ(run_verify({.dir = "/nonexistent"}), 2);
  unsetenv("TOKENSIEVE_GOLDEN_DIR");
  EXPECT_EQ(run_verify({}), 2);
  setenv("TOKENSIEVE_GOLDEN_DIR", folder_.c_str(), 1);
  EXPECT_EQ(run_verify({.backends = {"ref"}}), 0);
  unsetenv("TOKENSIEVE_GOLDEN_DIR");
}

}  // namespace
}  // namespace tokensieve::verify
