// String match recall.
#include <gtest/gtest.h>

#include "eval/case.h"

namespace tokensieve::eval {
namespace {

struct ScoreCase {
  const char* name;
  std::vector<std::string> expected;
  const char* answer;
  double score;
};

class Score : public testing::TestWithParam<ScoreCase> {};

TEST_P(Score, IsTheShareThatTheAnswerNames) {
  EXPECT_DOUBLE_EQ(score({"", "", GetParam().expected}, GetParam().answer), GetParam().score);
}

INSTANTIATE_TEST_SUITE_P(
    Answers, Score,
    testing::Values(ScoreCase{"exact", {"4711"}, "4711", 1},
                    ScoreCase{"chatty", {"4711"}, "The special magic number is: **4711**.", 1},
                    ScoreCase{"wrong", {"4711"}, "4712", 0}, ScoreCase{"silent", {"4711"}, "", 0},
                    ScoreCase{"inside_longer", {"4711"}, "147110", 0},
                    ScoreCase{"digit_in_front", {"4711"}, "It is 14711.", 0},
                    ScoreCase{"digit_behind", {"4711"}, "It is 47110.", 0},
                    ScoreCase{"second_place", {"4711"}, "147110 or 4711", 1},
                    ScoreCase{"letters_around", {"4711"}, "no4711x", 1},
                    ScoreCase{"upper_case", {"cello"}, "CELLO", 1},
                    ScoreCase{"lower_case", {"QWERT"}, "var qwert", 1},
                    ScoreCase{"part_of_word", {"cello"}, "two cellos", 1},
                    ScoreCase{"name_with_digit", {"X1"}, "X12", 0},
                    ScoreCase{"half", {"12345", "67890"}, "12345 and 6789", 0.5},
                    ScoreCase{"two_of_three", {"a", "b", "c"}, "c a", 2.0 / 3},
                    ScoreCase{"nothing_expected", {}, "anything", 1}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace tokensieve::eval
