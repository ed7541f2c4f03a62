// Reading run files: what is understood, what is skipped, and errors that name file and line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "report/runs.h"

namespace tokensieve::eval::report {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

// What parse_run says about a bad text.
std::string error_of(const std::string& text) {
  const Result<EvalRun> run = parse_run(text, "run.jsonl");
  EXPECT_FALSE(run.ok());
  return run.ok() ? "" : run.status().message();
}

TEST(RunFile, ReadsResults) {
  const EvalRun run = parsed(std::string(kHeader) +
                             result("qa", 1024, 3, "sparse",
                                    R"("depth":0.25,"score":0.5,"expected":["a","b"],"answer":"a",)"
                                    R"("prefill_ms":12.5,"follow_ups":[{"score":1}],)"
                                    R"("layers":[{"layer":2,"keep_ratio":0.1,"reason":"r"}],)"
                                    R"("metrics":{"kl":0.1,"top1":0.9,"nll":2,"nll_dense":1.5})"));
  ASSERT_EQ(run.results.size(), 1u);
  const CaseResult& r = run.results[0];
  EXPECT_EQ(run.model, "tiny");
  EXPECT_EQ(r.key(), CaseResult::Key(0, "qa", 1024, 3));
  EXPECT_EQ(r.depth, 0.25);
  EXPECT_EQ(r.score, 0.5);
  EXPECT_THAT(r.expected, ElementsAre("a", "b"));
  EXPECT_EQ(r.follow_ups.at(0).score, 1);
  EXPECT_EQ(r.layers.at(0).reason, "r");
  EXPECT_EQ(r.layers.at(0).work, 1);  // the default
  EXPECT_EQ(r.metrics->nll_dense, 1.5);
  EXPECT_FALSE(r.attention_ms.has_value());
}

TEST(RunFile, SkipsWhatItDoesNotKnow) {
  const EvalRun run = parsed(std::string(kHeader) + "\n{\"type\":\"weather\",\"sun\":true}\n" +
                             result("qa", 1024, 0, "dense", R"("mood":"fine","depth":-1)"));
  ASSERT_EQ(run.results.size(), 1u);
  EXPECT_FALSE(run.results[0].depth.has_value());
}

TEST(RunFile, ReadsKeptDriftAndTune) {
  const EvalRun run = parsed(
      std::string(kHeader) +
      R"({"type":"kept","task":"qa","length":4,"case":0,"config":"sparse","tokens":["a","b","c"],)"
      R"("layers":[{"layer":1,"sets":2,"kept":[[[0,1]],[[0,0],[2,2]]]}]})"
      "\n"
      R"({"type":"drift","layers":[0.75,0.25]})"
      "\n"
      R"({"type":"tune","step":0,"layers":[1,2],"thin":{"layers":[2],)"
      R"("select":{"keep_ratio":0.1}},"work":0.5,"kl":0.01,"chosen":true})"
      "\n");
  EXPECT_THAT(run.kept.at(0).layers.at(0).sets,
              ElementsAre(ElementsAre(Pair(0, 1)), ElementsAre(Pair(0, 0), Pair(2, 2))));
  EXPECT_THAT(run.drift, ElementsAre(0.75, 0.25));
  EXPECT_TRUE(run.tune.at(0).chosen);
  EXPECT_EQ(run.tune.at(0).thin->layers, std::vector<int32_t>{2});
  EXPECT_EQ(run.tune.at(0).thin->select["keep_ratio"], 0.1);
}

TEST(RunFile, APromptThatRanDenseIsNotInspected) {
  const std::string start =
      R"({"type":"kept","task":"qa","length":4,"case":0,"config":"sparse","tokens":["a"],)"
      R"("layers":)";
  EXPECT_TRUE(parsed(std::string(kHeader) + start + "[]}\n").kept.empty());
  EXPECT_TRUE(parsed(kHeader + start + R"([{"layer":1,"kept":[]}]})" + "\n").kept.empty());
}

TEST(RunFile, TheLaterOfTwoResultsCounts) {
  const EvalRun run = parsed(std::string(kHeader) + result("qa", 1, 0, "dense", R"("score":0)") +
                             result("qa", 1, 1, "dense", R"("score":0.5)") +
                             result("qa", 1, 0, "dense", R"("score":1)"));
  ASSERT_EQ(run.results.size(), 2u);
  EXPECT_EQ(run.results[0].score, 0.5);
  EXPECT_EQ(run.results[1].score, 1);
}

TEST(RunFile, AnInterruptedLastLineIsOnlyAWarning) {
  const std::string good = std::string(kHeader) + result("qa", 1, 0, "dense", R"("score":1)");
  const EvalRun run = parsed(good + R"({"type":"result","task":"q)");
  EXPECT_EQ(run.results.size(), 1u);
  EXPECT_THAT(warnings_of(run), ElementsAre(HasSubstr("run.jsonl:3:")));
  // With its line break it was written whole, and is damaged.
  EXPECT_THAT(error_of(good + R"({"type":"result","task":"q)"
                              "\n"),
              HasSubstr("run.jsonl:3 is not valid JSON"));
}

TEST(RunFile, SaysHowMuchIsMissing) {
  const std::string header = R"({"type":"run","format":1,"tasks":["qa"],"lengths":[1,2],"cases":1,)"
                             R"("configs":[{"name":"dense"}]})"
                             "\n";
  const std::string one = header + result("qa", 1, 0, "dense", R"("score":1)");
  EXPECT_THAT(warnings_of(parsed(one)), ElementsAre(HasSubstr("not finished: 1 of 2 results")));
  EXPECT_TRUE(warnings_of(parsed(one + result("qa", 2, 0, "dense", R"("score":1)"))).empty());
  const std::string search =
      header + R"({"type":"tune","step":0,"layers":[1],"work":0.5,"kl":0.01,"chosen":true})" + "\n";
  EXPECT_TRUE(warnings_of(parsed(search)).empty()) << "tune keeps no answers";
}

TEST(RunFile, PartsOfOneRunBecomeOne) {
  const auto part = [](const char* task, const char* seed, const char* date) {
    return std::string(R"({"type":"run","format":1,"date":")") + date + R"(","seed":)" + seed +
           R"(,"tasks":[")" + task + R"("],"lengths":[1],"cases":1,"configs":[{"name":"dense"}]})" +
           "\n" + result(task, 1, 0, "dense", R"("score":1)");
  };
  const std::vector<EvalRun> runs =
      join_parts({parsed(part("qa", "1", "Monday")), parsed(part("text", "1", "Tuesday")),
                  parsed(part("qa", "2", "Monday"))});
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].header["tasks"], Json({"qa", "text"}));
  EXPECT_EQ(runs[0].results.size(), 2u);
  EXPECT_EQ(runs[0].planned, 2);
  EXPECT_EQ(runs[1].results.size(), 1u);
}

TEST(RunFile, ErrorsNameFileAndLine) {
  const std::string header = kHeader;
  EXPECT_THAT(error_of("\n \n"), HasSubstr("run.jsonl: holds no run"));
  EXPECT_THAT(error_of("nonsense"), HasSubstr("run.jsonl:1 is not valid JSON"));
  EXPECT_THAT(error_of("[1]\n"), HasSubstr("run.jsonl:1: is not a JSON object: [1]"));
  EXPECT_THAT(error_of("{\"type\":\"result\"}\n"),
              HasSubstr("run.jsonl:1: the first line is not the header"));
  EXPECT_THAT(error_of(header + header), HasSubstr("run.jsonl:2: a second header"));
  EXPECT_THAT(error_of(R"({"type":"run","format":2,"configs":[{"name":"a"}]})"),
              HasSubstr("format 2 is not one that this version reads; allowed: 1"));
  EXPECT_THAT(error_of(R"({"type":"run","format":1,"configs":[]})"), HasSubstr("no configuration"));
  EXPECT_THAT(error_of(header + result("qa", 1, 0, "other", R"("score":1)")),
              HasSubstr("run.jsonl:2: config \"other\" is not one of the header's"));
  EXPECT_THAT(error_of(header + "\n" + result("qa", 1, 0, "dense", R"("score":"full")")),
              HasSubstr("run.jsonl:3: score is \"full\"; allowed: a finite number"));
  EXPECT_THAT(error_of(header + R"({"type":"result","task":"qa","length":1,"config":"dense"})"),
              HasSubstr("run.jsonl:2: case is missing"));
  EXPECT_THAT(error_of(header + result("qa", 1, 0, "dense", R"("layers":[3])")),
              HasSubstr("run.jsonl:2: layers: is not a JSON object: 3"));
}

TEST(RunFile, DeepNestingIsAnErrorThatNamesTheLine) {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  for (const std::string& text :
       {deep + "\n", kHeader + deep + "\n", kHeader + deep,
        kHeader + result("qa", 1, 0, "dense", R"("layers":)" + deep)}) {
    EXPECT_THAT(error_of(text), HasSubstr(" nests values more than 64 levels deep"));
    EXPECT_THAT(error_of(text), HasSubstr(text.starts_with("[") ? "run.jsonl:1" : "run.jsonl:2"));
  }
}

// Every byte, replaced by what changes a member's type or breaks the line.
TEST(RunFile, DamagedFilesAreErrorsOrRead) {
  const std::string whole =
      kHeader +
      result("qa", 10, 3, "sparse",
             R"("depth":0.25,"score":0.5,"expected":["a"],"answer":"a","follow_ups":[{"score":1}],)"
             R"("layers":[{"layer":2,"reason":"r"}],"metrics":{"kl":0,"top1":1,"nll":2,)"
             R"("nll_dense":1})") +
      R"({"type":"kept","task":"qa","length":4,"case":0,"config":"sparse","tokens":["a","b"],)"
      R"("layers":[{"layer":1,"sets":1,"kept":[[[0,1]]]}]})"
      "\n";
  ASSERT_EQ(parsed(whole).kept.size(), 1u);
  size_t errors = 0;
  for (const char damage : {'"', '{', ']', '0', '-', 'e', ',', '\\', '\xff', '\0'}) {
    for (size_t at = 0; at < whole.size(); ++at) {
      std::string text = whole;
      text[at] = damage;
      errors += parse_run(text, "run.jsonl").ok() ? 0 : 1;
    }
  }
  EXPECT_GT(errors, 5 * whole.size());
}

TEST(RunFile, KeptRangesLieWithinThePrompt) {
  for (const char* range : {"[2,3]", "[1,0]", "[0]", "[-1,0]", "[0,1,2]"}) {
    EXPECT_THAT(error_of(std::string(kHeader) +
                         R"({"type":"kept","task":"qa","length":4,"case":0,"config":"sparse",)"
                         R"("tokens":["a","b","c"],"layers":[{"layer":1,"kept":[[)" +
                         range + "]]}]}\n"),
                HasSubstr("run.jsonl:2: "))
        << range;
  }
}

// tests/data/eval_run.jsonl is what `tokensieve eval` wrote for the command in its header.
TEST(RunFile, ReadsWhatEvalWrites) {
  const Result<EvalRun> run = read_run(TOKENSIEVE_SOURCE_DIR "/tests/data/eval_run.jsonl");
  ASSERT_TRUE(run.ok()) << run.status().message();
  EXPECT_TRUE(warnings_of(*run).empty());
  EXPECT_EQ(run->model, "smollm2");
  ASSERT_EQ(run->results.size(), 6u);
  EXPECT_EQ(run->drift.size(), 30u);
  ASSERT_EQ(run->kept.size(), 1u);
  EXPECT_EQ(run->kept[0].layers.size(), 28u);  // layers 2 to 29 of the profile
  for (const CaseResult& result : run->results) {
    EXPECT_EQ(result.metrics.has_value(), result.task == "text");
    EXPECT_EQ(result.score.has_value(), result.task != "text");
    EXPECT_GT(*result.prefill_ms, 0);
    EXPECT_EQ(result.layers.size(), result.config == "stock" ? 0u : 30u);
  }
}

// Without what a writer leaves out: empty texts and lists.
Json without_empty(const Json& json) {
  if (!json.is_object() && !json.is_array()) return json;
  Json result = json.is_object() ? Json::object() : Json::array();
  for (const auto& [key, value] : json.items()) {
    if (json.is_array()) {
      result.push_back(without_empty(value));
    } else if (!value.is_null() && value != "" && value != Json::array()) {
      result[key] = without_empty(value);
    }
  }
  return result;
}

template <typename Line>
Json rewritten(const Json& json) {
  Line line;
  EXPECT_STREQ(eval::read_line(json, "a line", line).message(), "");
  return eval::to_json(line);
}

TEST(RunFile, EveryLineIsWrittenAsItIsRead) {
  for (const char* path : {"/tests/data/eval_run.jsonl", "/results/smollm2-tune.jsonl"}) {
    std::ifstream file(TOKENSIEVE_SOURCE_DIR + std::string(path));
    int lines = 0;
    for (std::string text; std::getline(file, text); ++lines) {
      const Json json = Json::parse(text);
      const std::string type = json["type"];
      const Json again = type == "run"      ? rewritten<eval::HeaderLine>(json)
                         : type == "result" ? rewritten<CaseResult>(json)
                         : type == "kept"   ? rewritten<KeptTokens>(json)
                         : type == "tune"   ? rewritten<TuneStep>(json)
                                            : rewritten<eval::DriftLine>(json);
      EXPECT_EQ(without_empty(again), without_empty(json)) << path << ":" << lines + 1;
    }
    EXPECT_GT(lines, 8);
  }
}

TEST(RunFile, AnswersWithoutAScoreAreScored) {
  const EvalRun run = parsed(
      std::string(kHeader) +
      result("qa", 1, 0, "dense",
             R"("expected":["47","Oslo"],"answer":"47 in Rome","follow_ups":)"
             R"([{"expected":["Oslo"],"answer":"oslo"},{"expected":["4"],"answer":"47"}])"));
  EXPECT_EQ(run.results.at(0).score, 0.5);
  EXPECT_EQ(run.results.at(0).follow_ups.at(0).score, 1);
  EXPECT_EQ(run.results.at(0).follow_ups.at(1).score, 0);
  EXPECT_THAT(error_of(kHeader + result("qa", 1, 0, "dense", R"("follow_ups":[{"answer":"x"}])")),
              HasSubstr("neither \"score\" nor \"expected\""));
}

TEST(RunFile, MissingFile) {
  const Result<EvalRun> run = read_run("/nowhere/run.jsonl");
  ASSERT_FALSE(run.ok());
  EXPECT_EQ(run.status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace tokensieve::eval::report
