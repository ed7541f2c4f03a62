// The parts of `tokensieve eval` that need no model: configurations, what baselines keep, the
// results file, distribution metrics.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <sstream>

#include "eval/config.h"
#include "eval/metrics.h"
#include "eval/results.h"
#include "eval/selectors.h"

namespace tokensieve::cli::eval {
namespace {

namespace fs = std::filesystem;

Profile model_profile() {
  Profile profile;
  profile.model = "test";
  profile.fingerprint = {"llama", 30, 9, 3, 64};
  for (int32_t l = 2; l < 30; ++l) profile.sparse_layers.push_back(l);
  profile.select.budget = BudgetPolicy::kKeepRatio;
  profile.select.share = Share::kLayer;
  profile.select.fill = Fill::kLocal;
  return profile;
}

std::vector<Config> parse(const std::vector<std::string>& specs) {
  Result<std::vector<Config>> configs = parse_configs(specs, model_profile());
  EXPECT_TRUE(configs.ok()) << configs.status().message();
  return configs.ok() ? configs.value() : std::vector<Config>{};
}

std::string error_of(const std::string& spec) {
  const Result<std::vector<Config>> configs = parse_configs({spec}, model_profile());
  return configs.ok() ? "" : configs.status().message();
}

// ---- configurations -----------------------------------------------------------------------------

TEST(EvalConfig, DefaultsParseAndDenseComesFirst) {
  const std::vector<Config> configs = parse(default_configs());
  ASSERT_EQ(configs.size(), default_configs().size());
  EXPECT_EQ(configs[0].kind, Kind::kDense);
}

TEST(EvalConfig, DenseIsAddedWhenMissing) {
  const std::vector<Config> configs = parse({"stock"});
  ASSERT_EQ(configs.size(), 2u);
  EXPECT_EQ(configs[0].name, "dense");
}

TEST(EvalConfig, EveryPresetParses) {
  for (const char* name : {"stock", "dense", "sparse", "forced", "paper", "none", "random", "recent",
                           "evict", "once", "progressive", "draft"}) {
    EXPECT_EQ(parse({name}).back().name, name);
    EXPECT_NE(describe_presets().find(name), std::string::npos);
  }
}

TEST(EvalConfig, SparseIsTheProfileAsItIsAndForcedHasNoGates) {
  const std::vector<Config> configs = parse({"sparse", "forced"});
  EXPECT_EQ(configs[1].profile.min_tokens, 4096);
  EXPECT_FALSE(configs[1].always_sparse);
  EXPECT_EQ(configs[2].profile.min_tokens, 0);
  EXPECT_EQ(configs[2].profile.select.min_keep, 0);
  EXPECT_TRUE(configs[2].always_sparse);
}

TEST(EvalConfig, PaperIsThePapers) {
  const Profile profile = parse({"paper"})[1].profile;
  EXPECT_EQ(profile.select.budget, BudgetPolicy::kTau);
  EXPECT_EQ(profile.select.tau, 0.005);
  EXPECT_EQ(profile.select.fill, Fill::kZero);
  EXPECT_EQ(profile.select.share, Share::kHead);
  EXPECT_EQ(profile.sparse_layers.front(), 15);
}

TEST(EvalConfig, KeysOverride) {
  const Config config =
      parse({"forced:keep=0.1,window=256,layers=2,5-7,sinks=8,fill=local,share=kv,mode=chunk,"
             "obs_window=64,pool_width=5,min_tokens=100,min_keep=32,gate=on,name=thin"})[1];
  EXPECT_EQ(config.name, "thin");
  EXPECT_EQ(config.profile.select.keep_ratio, 0.1);
  EXPECT_EQ(config.profile.select.local_window, 256);
  EXPECT_EQ(config.profile.sparse_layers, (std::vector<int32_t>{2, 5, 6, 7}));
  EXPECT_EQ(config.profile.select.sinks, 8);
  EXPECT_EQ(config.profile.select.share, Share::kKv);
  EXPECT_EQ(config.profile.min_tokens, 100);
  EXPECT_EQ(config.profile.select.min_keep, 32);
  EXPECT_TRUE(config.chunk);
  EXPECT_FALSE(config.always_sparse);
}

TEST(EvalConfig, ListsBecomeConfigurations) {
  const std::vector<Config> configs = parse({"forced:keep=.1/.2,layers=upper/all"});
  ASSERT_EQ(configs.size(), 5u);
  std::set<std::string> names;
  for (const Config& config : configs) names.insert(config.name);
  EXPECT_EQ(names.size(), 5u);
  EXPECT_TRUE(names.contains("forced:keep=.2,layers=all"));
}

TEST(EvalConfig, LaterBudgetWins) {
  EXPECT_EQ(parse({"forced:tau=.01"})[1].profile.select.budget, BudgetPolicy::kTau);
  EXPECT_EQ(parse({"forced:count=300"})[1].profile.select.keep_count, 300);
}

TEST(EvalConfig, ErrorsNameTheValueAndWhatIsAllowed) {
  EXPECT_NE(error_of("fast").find("allowed: stock, dense"), std::string::npos);
  EXPECT_NE(error_of("forced:keep=2").find("keep=2; allowed: a number from"), std::string::npos);
  EXPECT_NE(error_of("forced:keep=nan").find("allowed"), std::string::npos);
  EXPECT_NE(error_of("forced:keep=").find("allowed"), std::string::npos);
  EXPECT_NE(error_of("forced:window=100").find("a multiple of 64"), std::string::npos);
  EXPECT_NE(error_of("forced:layers=0-3").find("numbers from 1 to 29"), std::string::npos);
  EXPECT_NE(error_of("forced:pool_width=4").find("odd"), std::string::npos);
  EXPECT_NE(error_of("forced:fill=mean").find("zero, local"), std::string::npos);
  EXPECT_NE(error_of("forced:depth=3").find("unknown key \"depth\""), std::string::npos);
  EXPECT_NE(error_of("forced:keep").find("not key=value"), std::string::npos);
  EXPECT_NE(error_of("stock:keep=.1").find("selects nothing"), std::string::npos);
  EXPECT_NE(error_of("none:tau=.01").find("fixed number"), std::string::npos);
  EXPECT_NE(error_of("recent:mode=chunk").find("mode=whole"), std::string::npos);
  EXPECT_NE(error_of("once:share=head").find("share=layer"), std::string::npos);
  EXPECT_NE(error_of("evict:filter=30").find("1 to 29"), std::string::npos);
  EXPECT_NE(error_of("forced:profile=nope").find("nope"), std::string::npos);
  const auto twice = parse_configs({"none", "none"}, model_profile());
  ASSERT_FALSE(twice.ok());
  EXPECT_NE(std::string(twice.status().message()).find("name="), std::string::npos);
}

TEST(EvalConfig, JsonSaysWhatRuns) {
  const nlohmann::ordered_json json = config_json(parse({"evict:filter=9"})[1]);
  EXPECT_EQ(json["kind"], "evict");
  EXPECT_EQ(json["filter_layer"], 9);
  EXPECT_EQ(json["profile"]["select"]["share"], "layer");
  EXPECT_TRUE(parse_profile(json["profile"].dump(), "test").ok());
}

TEST(EvalConfig, BaselinesDoEqualWork) {
  SelectConfig select = model_profile().select;
  select.min_keep = 0;
  for (const int64_t tokens : {2048, 4096, 8192, 32768}) {
    const auto n = static_cast<double>(tokens);
    const double kept = std::floor(0.2 * (n - 128)) + 128;
    const double work = selection_work(select, kept, n);
    SelectConfig zero = select;
    zero.fill = Fill::kZero;
    const auto more = static_cast<double>(equal_work_count(zero, select, tokens) + 128);
    EXPECT_GT(more, kept);
    EXPECT_NEAR(selection_work(zero, more, n), work, 0.002);

    SelectConfig window = select;
    window.local_window = equal_work_window(select, tokens);
    EXPECT_EQ(window.local_window % 64, 0);
    const double rows = n - 128;
    const double pairs = selection_work(window, 1, rows) * rows * (rows + 1) / 2 + 128 * (n - 64);
    EXPECT_NEAR(pairs / (n * (n + 1) / 2), work, 64 / n + 0.002);
  }
  EXPECT_NEAR(selection_work(select, 8192, 8192), 1.0, 1e-3);
}

// ---- what baselines keep ------------------------------------------------------------------------

struct Choice {
  std::vector<int32_t> kept;
  tokensieve_ggml_selection selection = {};

  Choice(int32_t layer, int64_t tokens, int32_t sets, int64_t count, int64_t capacity)
      : kept(static_cast<size_t>(sets * capacity)) {
    selection.struct_size = sizeof(selection);
    selection.layer = layer;
    selection.tokens = tokens;
    selection.queries = tokens;
    selection.prefix = tokens - 128;
    selection.sets = sets;
    selection.obs_window = 128;
    selection.capacity = capacity;
    selection.count = count;
    selection.kept = kept.data();
    selection.choose_among = choose_last;
    // The library's choice here: the first prefix tokens.
    for (int32_t set = 0; set < sets; ++set) {
      int32_t* row = kept.data() + set * capacity;
      std::iota(row, row + count - 128, 0);
      std::iota(row + count - 128, row + count, static_cast<int32_t>(selection.prefix));
    }
  }

  // Stands for the library: takes the newest candidates.
  static int choose_last(tokensieve_ggml_selection* s, const int32_t* candidates, int64_t n,
                         int64_t keep) {
    if (keep > n || keep > s->capacity) return -1;
    std::copy(candidates + n - keep, candidates + n, s->kept);
    s->count = keep;
    return 0;
  }

  std::vector<int32_t> set(int32_t index) const {
    const int32_t* row = kept.data() + index * selection.capacity;
    return {row, row + selection.count};
  }

  // What the library demands of a set.
  void expect_valid(int64_t count) const {
    EXPECT_EQ(selection.count, count);
    for (int32_t s = 0; s < selection.sets; ++s) {
      const std::vector<int32_t> tokens = set(s);
      for (size_t i = 1; i < tokens.size(); ++i) ASSERT_LT(tokens[i - 1], tokens[i]);
      ASSERT_GE(tokens.front(), 0);
      ASSERT_EQ(tokens.back(), selection.tokens - 1);
      ASSERT_EQ(tokens[tokens.size() - 128], selection.prefix);
    }
  }
};

TEST(EvalSelectors, RandomSetsAreValidAndRepeat) {
  Choice a(5, 2000, 3, 500, 500), b(5, 2000, 3, 500, 500), other(6, 2000, 3, 500, 500);
  EXPECT_TRUE(random_selector(7)->select(a.selection));
  EXPECT_TRUE(random_selector(7)->select(b.selection));
  EXPECT_TRUE(random_selector(7)->select(other.selection));
  a.expect_valid(500);
  EXPECT_EQ(a.kept, b.kept);
  EXPECT_NE(a.set(0), a.set(1)) << "sets are drawn on their own";
  EXPECT_NE(a.set(0), other.set(0)) << "so are layers";
  // Drawn from all of the prefix: 372 of 1872, a fifth of each half.
  const std::vector<int32_t> set = a.set(0);
  const auto half = std::count_if(set.begin(), set.end(), [](int32_t t) { return t < 936; });
  EXPECT_GT(half, 130);
  EXPECT_LT(half, 242);
}

TEST(EvalSelectors, RecentKeepsSinksAndTheNewest) {
  Choice choice(5, 2000, 1, 500, 500);
  EXPECT_TRUE(recent_selector(4)->select(choice.selection));
  choice.expect_valid(500);
  const std::vector<int32_t> set = choice.set(0);
  EXPECT_EQ(set[3], 3);
  EXPECT_EQ(set[4], 2000 - 496);
}

TEST(EvalSelectors, OnceReusesTheFirstChoice) {
  const auto once = once_selector();
  Choice first(2, 2000, 1, 500, 500);
  const std::vector<int32_t> kept = first.set(0);
  EXPECT_TRUE(once->select(first.selection));
  Choice second(3, 2000, 1, 500, 500);
  EXPECT_TRUE(recent_selector(0)->select(second.selection));  // another choice of the library
  EXPECT_TRUE(once->select(second.selection));
  second.expect_valid(500);
  EXPECT_EQ(second.set(0), kept);
}

TEST(EvalSelectors, NestedSetsShrinkAndContainOneAnother) {
  const auto nested = nested_selector([](int32_t layer) { return layer == 2 ? 1.0 : 0.5; });
  Choice first(2, 2000, 1, 1128, 1128), second(3, 2000, 1, 1128, 1128);
  EXPECT_TRUE(nested->select(first.selection));
  EXPECT_TRUE(nested->select(second.selection));
  first.expect_valid(1128);
  second.expect_valid(628);
  const std::vector<int32_t> outer = first.set(0), inner = second.set(0);
  EXPECT_TRUE(std::includes(outer.begin(), outer.end(), inner.begin(), inner.end()));
  Choice next(2, 3000, 1, 1128, 1128);  // another prompt: all tokens are alive again
  EXPECT_TRUE(nested->select(next.selection));
  next.expect_valid(1128);
}

TEST(EvalSelectors, RecordAndReplay) {
  KeptByLayer sets;
  std::vector<int32_t> seen;
  const auto recorder =
      recording_selector(sets, /*dense=*/true, [&](int32_t layer) { seen.push_back(layer); });
  Choice choice(4, 2000, 3, 500, 500);
  EXPECT_FALSE(recorder->select(choice.selection));
  EXPECT_EQ(seen, std::vector<int32_t>{4});
  const auto replay = replay_selector(sets);
  Choice again(4, 2000, 3, 400, 500);
  EXPECT_TRUE(replay->select(again.selection));
  again.expect_valid(500);
  EXPECT_EQ(again.set(2), choice.set(2));
  Choice unknown(5, 2000, 3, 500, 500), longer(4, 2001, 3, 500, 500);
  EXPECT_FALSE(replay->select(unknown.selection));
  EXPECT_FALSE(replay->select(longer.selection));
}

TEST(EvalSelectors, InspectingSeesWhatRuns) {
  KeptByLayer sets;
  const auto selector = inspecting_selector(recent_selector(4), sets);
  Choice choice(4, 2000, 1, 500, 500);
  EXPECT_EQ(Selector::hook(&choice.selection, selector.get()), 1);
  EXPECT_EQ(sets.at(4).sets.front(), choice.set(0));
  EXPECT_EQ(sets.at(4).sets.front()[4], 1504);
}

// ---- metrics ------------------------------------------------------------------------------------

TEST(EvalMetrics, KnownDistributions) {
  Predictions a, b;
  // (1/2, 1/4, 1/4) against (1/4, 1/2, 1/4): KL = ln 2 / 4.
  const float half = std::log(0.5f), quarter = std::log(0.25f);
  a.add(std::vector<float>{half, quarter, quarter}, 0);
  b.add(std::vector<float>{quarter + 3, half + 3, quarter + 3}, 0);
  a.add(std::vector<float>{half, quarter, quarter}, 2);
  b.add(std::vector<float>{half, quarter, quarter}, 2);
  const Metrics m = compare(a, b);
  EXPECT_EQ(m.tokens, 2);
  EXPECT_NEAR(m.kl_max, std::log(2.0) / 4, 1e-6);
  EXPECT_NEAR(m.kl, std::log(2.0) / 8, 1e-6);
  EXPECT_DOUBLE_EQ(m.top1, 0.5);
  EXPECT_NEAR(m.nll_reference, (std::log(2.0) + std::log(4.0)) / 2, 1e-6);
  EXPECT_NEAR(m.nll, std::log(4.0), 1e-6);
}

TEST(EvalMetrics, UnlikelyTokensCostNothing) {
  Predictions a;
  a.add(std::vector<float>{0, -INFINITY, -80}, 0);
  const Metrics m = compare(a, a);
  EXPECT_EQ(m.kl, 0);
  EXPECT_EQ(m.top1, 1);
  EXPECT_NEAR(m.nll, 0, 1e-9);
}

// ---- results ------------------------------------------------------------------------------------

class EvalResults : public testing::Test {
 protected:
  EvalResults() {
    char name[] = "/tmp/tokensieve-eval-XXXXXX";
    folder_ = mkdtemp(name);
    path_ = (folder_ / "run.jsonl").string();
  }
  ~EvalResults() override { fs::remove_all(folder_); }

  static Json header() {
    return {{"type", "run"},  {"format", 1},         {"date", "today"},   {"model", {{"name", "m"}}},
            {"seed", 1},      {"tasks", {"qa"}},     {"lengths", {1024}}, {"cases", 2},
            {"configs", {{{"name", "dense"}, {"profile", {{"tau", 0.005}}}}}}};
  }
  static Json result(int32_t index) {
    return {{"type", "result"}, {"task", "qa"},     {"length", 1024},
            {"case", index},    {"config", "dense"}, {"score", 1.0}};
  }
  std::string text() const {
    std::ifstream file(path_, std::ios::binary);
    std::stringstream stream;
    stream << file.rdbuf();
    return stream.str();
  }
  void write(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }
  std::string error(const Json& header) const {
    const std::string before = text();
    const Result<ResultsFile> file = ResultsFile::open(path_, header);
    EXPECT_FALSE(file.ok());
    EXPECT_EQ(text(), before) << "a file that is not ours must not change";
    return file.ok() ? "" : file.status().message();
  }

  fs::path folder_;
  std::string path_;
};

TEST_F(EvalResults, GoesOnAndCutsATornLine) {
  {
    Result<ResultsFile> file = ResultsFile::open(path_, header());
    ASSERT_TRUE(file.ok()) << file.status().message();
    EXPECT_FALSE(file->resumed());
    ASSERT_TRUE(file.value().append(result(0)).ok());
  }
  const std::string whole = text();
  write(whole + R"({"type":"result","task":"q)");
  Json later = header();
  later["date"] = "tomorrow";
  {
    Result<ResultsFile> file = ResultsFile::open(path_, later);
    ASSERT_TRUE(file.ok()) << file.status().message();
    EXPECT_TRUE(file->resumed());
    ASSERT_EQ(file->earlier().size(), 1u);
    EXPECT_EQ(result_key(file->earlier()[0]), result_key("qa", 1024, 0, "dense"));
    ASSERT_TRUE(file.value().append(result(1)).ok());
  }
  EXPECT_EQ(text(), whole + result(1).dump() + "\n");
}

TEST_F(EvalResults, ATornHeaderIsWrittenAgain) {
  write(R"({"type":"run","form)");
  ASSERT_TRUE(ResultsFile::open(path_, header()).ok());
  EXPECT_EQ(text(), header().dump() + "\n");
}

TEST_F(EvalResults, AnotherRunIsRefused) {
  ASSERT_TRUE(ResultsFile::open(path_, header()).ok());
  Json other = header();
  other["seed"] = 2;
  EXPECT_NE(error(other).find("seed is 1 there and 2 here"), std::string::npos);
  other = header();
  other["model"]["name"] = "n";
  EXPECT_NE(error(other).find("model.name is \"m\" there"), std::string::npos);
  other = header();
  other["configs"][0]["profile"]["tau"] = 0.01;
  EXPECT_NE(error(other).find("configs.0.profile.tau is 0.005 there and 0.01 here"),
            std::string::npos);
}

TEST_F(EvalResults, OtherFilesAreRefused) {
  for (const char* other : {"hello\n", "hello", "{\"tokensieve_profile\":1}", "[1]\n", "\x7f" "ELF"}) {
    write(other);
    EXPECT_NE(error(header()).find("not a results file"), std::string::npos) << other;
  }
}

TEST_F(EvalResults, DamagedLinesAreNamed) {
  const std::string start = header().dump() + "\n";
  write(start + result(0).dump() + "\nnonsense\n" + result(1).dump() + "\n");
  EXPECT_NE(error(header()).find("run.jsonl:3: "), std::string::npos);
  write(start + start);
  EXPECT_NE(error(header()).find("two runs were mixed"), std::string::npos);
  write(start + R"({"type":"result","task":"qa"})" + "\n");
  EXPECT_NE(error(header()).find("run.jsonl:2: "), std::string::npos);
}

TEST_F(EvalResults, PathsThatCannotBeWritten) {
  EXPECT_FALSE(ResultsFile::open((folder_ / "no/such/folder.jsonl").string(), header()).ok());
  EXPECT_FALSE(ResultsFile::open(folder_.string(), header()).ok());
  const Result<ResultsFile> null = ResultsFile::open("/dev/null", header());
  ASSERT_FALSE(null.ok());
  EXPECT_NE(std::string(null.status().message()).find("regular file"), std::string::npos);
}

TEST_F(EvalResults, OneRunAtATime) {
  const Result<ResultsFile> first = ResultsFile::open(path_, header());
  ASSERT_TRUE(first.ok());
  const Result<ResultsFile> second = ResultsFile::open(path_, header());
  ASSERT_FALSE(second.ok());
  EXPECT_NE(std::string(second.status().message()).find("another run"), std::string::npos);
}

TEST_F(EvalResults, TextThatIsNotUtf8IsStillALine) {
  Result<ResultsFile> file = ResultsFile::open(path_, header());
  ASSERT_TRUE(file.ok());
  Json line = result(0);
  line["answer"] = "caf\xc3";
  EXPECT_TRUE(file.value().append(line).ok());
  EXPECT_NE(text().find("caf\xef\xbf\xbd"), std::string::npos);
}

}  // namespace
}  // namespace tokensieve::cli::eval
