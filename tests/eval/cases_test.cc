// Every task at many lengths: the same case each time, within its bounds, answerable.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "eval/case.h"
#include "eval/corpus.h"
#include "eval/random.h"
#include "common/files.h"
#include "case_text.h"
#include "tokens.h"

namespace tokensieve::eval {
namespace {

using testing::HasSubstr;
using testing::Not;

Case make(const std::string& task, int32_t length, int32_t index, uint64_t seed = 1) {
  Result<Case> made = make_case(task, length, index, seed, count_prompt);
  EXPECT_TRUE(made.ok()) << made.status().message();
  return made.ok() ? std::move(made.value()) : Case{};
}

size_t occurrences(const std::string& text, const std::string& wanted) {
  size_t count = 0;
  for (size_t at = text.find(wanted); at != std::string::npos; at = text.find(wanted, at + 1)) {
    ++count;
  }
  return count;
}

// Tasks whose expected strings each stand in the document exactly once.
bool has_needles(std::string_view task) {
  return task == "single_needle" || task == "multi_key" || task == "multi_value" ||
         task == "multi_query" || task == "qa";
}
bool has_swept_depth(std::string_view task) {
  return task == "single_needle" || task == "multi_key" || task == "qa";
}
bool counts_words(std::string_view task) {
  return task == "common_words" || task == "frequent_words";
}

class EveryTask : public testing::TestWithParam<std::string_view> {
 protected:
  std::string task() const { return std::string(GetParam()); }
};

TEST_P(EveryTask, FillsItsLength) {
  for (const int32_t length : {600, 1000, 1024, 4096, 7500, 32768, 131072}) {
    const int32_t cases = length > 8192 ? 1 : 8;
    for (int32_t index = 0; index < cases; ++index) {
      const Case item = make(task(), length, index);
      const int32_t tokens = count_prompt(item.document, item.question);
      EXPECT_LE(tokens, length) << index;
      EXPECT_GE(tokens, 0.95 * length) << length << " " << index;
    }
  }
}

TEST_P(EveryTask, CountsFewTimes) {
  for (const int32_t length : {1024, 16384}) {
    for (int32_t index = 0; index < 8; ++index) {
      int calls = 0;
      ASSERT_TRUE(make_case(task(), length, index, 1, [&](std::string_view d, const Question& q) {
                    ++calls;
                    return count_prompt(d, q);
                  }).ok());
      EXPECT_LE(calls, 12) << length << " " << index;
    }
  }
}

TEST_P(EveryTask, IsAFunctionOfItsArguments) {
  const std::string once = case_text(make(task(), 1024, 3, 7));
  EXPECT_EQ(case_text(make(task(), 1024, 3, 7)), once);
  EXPECT_NE(case_text(make(task(), 1024, 3, 8)), once);
  EXPECT_NE(make(task(), 1024, 4, 7).document, make(task(), 1024, 3, 7).document);
}

TEST_P(EveryTask, NamesItsArguments) {
  const Case item = make(task(), 1024, 5, 9);
  EXPECT_EQ(item.task, task());
  EXPECT_EQ(item.length, 1024);
  EXPECT_EQ(item.index, 5);
  EXPECT_EQ(item.seed, 9u);
  EXPECT_EQ(item.filler, filler_kinds()[1]);
}

TEST_P(EveryTask, IsAnswerableFromTheDocument) {
  for (int32_t index = 0; index < 12; ++index) {
    const Case item = make(task(), 1024, index);
    std::vector<Question> questions = item.follow_ups;
    questions.push_back(item.question);
    for (const Question& question : questions) {
      for (const std::string& expected : question.expected) {
        const size_t found = occurrences(item.document, expected);
        EXPECT_GE(found, 1u) << expected;
        EXPECT_TRUE(found == 1 || !has_needles(task())) << expected << ": " << found;
        EXPECT_THAT(question.text, Not(HasSubstr(expected)));
        EXPECT_THAT(question.answer_prefix, Not(HasSubstr(expected)));
      }
    }
  }
}

TEST_P(EveryTask, FollowsUpWithOtherFacts) {
  for (int32_t index = 0; index < 8; ++index) {
    const Case item = make(task(), 1024, index);
    if (counts_words(task()) || task() == "text") {
      EXPECT_TRUE(item.follow_ups.empty());
      continue;
    }
    EXPECT_GE(item.follow_ups.size(), 2u);
    EXPECT_LE(item.follow_ups.size(), 3u);
    std::set<std::string> asked(item.question.expected.begin(), item.question.expected.end());
    for (const Question& question : item.follow_ups) {
      EXPECT_NE(question.text, item.question.text);
      for (const std::string& expected : question.expected) {
        EXPECT_TRUE(asked.insert(expected).second) << expected;
      }
    }
  }
}

TEST_P(EveryTask, PutsTheAskedFactWhereTheSweepSays) {
  std::vector<double> depths;
  for (int32_t index = 0; index < 16; ++index) {
    const Case item = make(task(), 4096, index);
    depths.push_back(item.depth);
    if (!has_swept_depth(task())) continue;
    const double wanted = std::fmod(0.5 + index * 0.6180339887, 1.0);
    EXPECT_NEAR(item.depth, wanted, 0.06) << index;
    const size_t place = item.document.find(item.question.expected[0]);
    const double fraction = static_cast<double>(place) / static_cast<double>(item.document.size());
    EXPECT_NEAR(item.depth, fraction, 0.01);
  }
  if (counts_words(task()) || task() == "text") {
    EXPECT_THAT(depths, testing::Each(-1));
  } else {
    EXPECT_THAT(depths, testing::Each(testing::AllOf(testing::Ge(0), testing::Le(1))));
  }
}

TEST_P(EveryTask, SaysHowShortIsTooShort) {
  if (task() == "text") return;  // any length will do
  const Result<Case> made = make_case(task(), 64, 0, 1, count_prompt);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument);
  const std::string message = made.status().message();
  EXPECT_THAT(message, HasSubstr(task() + " at length 64"));
  const size_t at = message.find("allowed: ");
  ASSERT_NE(at, std::string::npos) << message;
  const int32_t least = std::stoi(message.substr(at + 9));
  EXPECT_TRUE(make_case(task(), least, 0, 1, count_prompt).ok() || task() == "common_words");
}

TEST_P(EveryTask, ZeroAndNegativeLengthsAreTooShort) {
  EXPECT_FALSE(make_case(task(), 0, 0, 1, count_prompt).ok());
  EXPECT_FALSE(make_case(task(), -1024, 0, 1, count_prompt).ok());
}

INSTANTIATE_TEST_SUITE_P(Tasks, EveryTask, testing::ValuesIn(task_names()),
                         [](const auto& info) { return std::string(info.param); });

TEST(Cases, UnknownTaskNamesTheKnownOnes) {
  const Result<Case> made = make_case("needle", 1024, 0, 1, count_prompt);
  ASSERT_FALSE(made.ok());
  EXPECT_STREQ(made.status().message(),
               "there is no task \"needle\"; allowed: single_needle, multi_key, multi_value, "
               "multi_query, variable_tracking, common_words, frequent_words, qa, text");
}

TEST(Cases, LongerThanTheTextSaysHowLongItIs) {
  const Result<Case> made = make_case("text", 1 << 20, 0, 1, count_prompt);
  ASSERT_FALSE(made.ok());
  EXPECT_THAT(made.status().message(), HasSubstr("text at length 1048576"));
  EXPECT_THAT(made.status().message(), HasSubstr("allowed: at most"));
}

TEST(Cases, AreAllInTheDocs) {
  const Result<std::string> page = cli::read_text(TOKENSIEVE_SOURCE_DIR "/docs/evaluation.md");
  ASSERT_TRUE(page.ok());
  for (const std::string_view task : task_names()) {
    EXPECT_NE(page->find("| `" + std::string(task) + "` |"), std::string::npos) << task;
  }
  for (const std::string_view kind : filler_kinds()) {
    EXPECT_NE(page->find("| `" + std::string(kind) + "` |"), std::string::npos) << kind;
  }
}

TEST(Cases, NegativeIndexIsAnError) {
  EXPECT_FALSE(make_case("qa", 1024, -1, 1, count_prompt).ok());
}

// The filler changes with the index, and with it the depth does not.
TEST(Cases, DepthsAndFillersMix) {
  std::set<std::pair<std::string, int>> pairs;
  for (int32_t index = 0; index < 64; ++index) {
    const Case item = make("single_needle", 2048, index);
    pairs.emplace(item.filler, std::min(3, static_cast<int>(4 * item.depth)));
  }
  EXPECT_EQ(pairs.size(), 16u);  // four kinds x four quarters
}

TEST(Cases, TextGoesOnWhereTheDocumentEnds) {
  for (int32_t index = 0; index < 8; ++index) {
    const Case item = make("text", 2048, index);
    EXPECT_TRUE(item.question.text.empty());
    EXPECT_GE(item.continuation.size(), 1000u);
    const Result<Filler> filler = load_filler(item.filler);
    ASSERT_TRUE(filler.ok());
    const std::string twice = filler->text + filler->text;  // a passage may pass the end
    EXPECT_NE(twice.find(item.document + item.continuation), std::string::npos);
  }
}

TEST(Cases, VariablesAreFilledInOrder) {
  for (int32_t index = 0; index < 8; ++index) {
    const Case item = make("variable_tracking", 1024, index);
    size_t before = 0;
    for (const std::string& name : item.question.expected) {
      const size_t assigned = item.document.find(" is copied to " + name + ".");
      ASSERT_NE(assigned, std::string::npos);
      EXPECT_GE(assigned, before);
      before = assigned;
    }
  }
}

TEST(Cases, AskedWordsAreTheMostCommon) {
  for (const std::string task : {"common_words", "frequent_words"}) {
    for (const int32_t length : {1024, 8192}) {
      const Case item = make(task, length, 1);
      std::map<std::string, int> counts;
      const std::string list = item.document.substr(item.document.find("\n\n") + 2);
      for (size_t begin = 0; begin < list.size();) {
        size_t end = std::min(list.find(' ', begin), list.size());
        if (end > begin) ++counts[list.substr(begin, end - begin)];
        begin = end + 1;
      }
      int least = 1 << 30, others = 0;
      for (const std::string& word : item.question.expected) least = std::min(least, counts[word]);
      for (const auto& [word, count] : counts) {
        const auto& asked = item.question.expected;
        if (std::find(asked.begin(), asked.end(), word) == asked.end()) {
          others = std::max(others, count);
        }
      }
      EXPECT_GT(least, task == "common_words" ? 5 * others : others);
    }
  }
}

// A case is a benchmark that others repeat: a changed hash is a changed benchmark.
TEST(Cases, AreTheSameEverywhere) {
  std::string all;
  for (const std::string_view task : task_names()) {
    for (int32_t index = 0; index < 4; ++index) {
      all += case_text(make(std::string(task), 1024, index)) + "\n";
    }
  }
  EXPECT_EQ(mix_seed(0, all), 13698548244604369982u);
}

}  // namespace
}  // namespace tokensieve::eval
