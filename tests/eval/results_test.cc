// The results file: going on, and what is refused.
#include "eval/results.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace tokensieve::eval {
namespace {

namespace fs = std::filesystem;

class EvalResults : public testing::Test {
 protected:
  EvalResults() {
    char name[] = "/tmp/tokensieve-eval-XXXXXX";
    folder_ = mkdtemp(name);
    path_ = (folder_ / "run.jsonl").string();
  }
  ~EvalResults() override { fs::remove_all(folder_); }

  static Json header() {
    return {{"type", "run"},
            {"format", 1},
            {"date", "today"},
            {"model", {{"name", "m"}}},
            {"seed", 1},
            {"tasks", {"qa"}},
            {"lengths", {1024}},
            {"cases", 2},
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
  for (const char* other : {"hello\n", "hello", "{\"tokensieve_profile\":1}", "[1]\n", "ELF",
                            "{\"type\":5}\n", "{\"type\":[]}\n"}) {
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
  write(start + std::string(100000, '[') + std::string(100000, ']') + "\n");
  EXPECT_NE(error(header()).find("run.jsonl:2: the line nests values more than 64 levels deep"),
            std::string::npos);
}

// Another run's header may hold anything.
TEST_F(EvalResults, StrangeHeadersAreAnotherRun) {
  for (const char* configs : {"[{}]", "[{\"name\":5}]", "[{\"name\":[]},3]", "7"}) {
    Json other = header();
    other["configs"] = Json::parse(configs);
    write(other.dump() + "\n");
    EXPECT_NE(error(header()).find("holds another run"), std::string::npos) << configs;
  }
  write(R"({"type":"run","model":)" + std::string(100000, '[') + std::string(100000, ']') + "}\n");
  EXPECT_NE(error(header()).find("not a results file"), std::string::npos);
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
}  // namespace tokensieve::eval
