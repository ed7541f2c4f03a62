// The filler texts and how facts are put into them.
#include "eval/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <map>
#include <set>

#include "common/files.h"
#include "tokens.h"

namespace tokensieve::eval {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Filler sentences() { return {"fiction", "One. Two two. Three!\nFour.\n", {0, 5, 14, 21}}; }

class ShippedText : public testing::TestWithParam<std::string_view> {};

TEST_P(ShippedText, IsUtf8AndFills128KTokens) {
  const Result<Filler> filler = load_filler(GetParam());
  ASSERT_TRUE(filler.ok()) << filler.status().message();
  EXPECT_EQ(filler->kind, GetParam());
  EXPECT_EQ(cli::first_invalid_utf8(filler->text), std::string::npos);
  EXPECT_GT(count_pieces(filler->text), 140 * 1024);
  EXPECT_EQ(filler->text.back(), '\n');
}

TEST_P(ShippedText, IsCutWhereSentencesOrLinesBegin) {
  const Result<Filler> filler = load_filler(GetParam());
  ASSERT_TRUE(filler.ok());
  ASSERT_GT(filler->cuts.size(), 4000u);
  EXPECT_EQ(filler->cuts.front(), 0u);
  EXPECT_TRUE(std::is_sorted(filler->cuts.begin(), filler->cuts.end()));
  const bool prose = GetParam() == "fiction" || GetParam() == "technical";
  for (size_t i = 1; i < filler->cuts.size(); ++i) {
    const uint32_t cut = filler->cuts[i];
    ASSERT_LT(cut, filler->text.size());
    const char before = filler->text[cut - 1];
    ASSERT_TRUE(before == '\n' || (prose && before == ' ')) << filler->text.substr(cut - 20, 40);
    if (before == '\n') continue;
    ASSERT_THAT(filler->text.substr(cut - 4, 3), testing::ContainsRegex("[.!?]"));
    if (GetParam() == "fiction") {
      ASSERT_NE(filler->text.substr(cut - 4, 4), "Mr. ");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, ShippedText, testing::ValuesIn(filler_kinds()),
                         [](const auto& info) { return std::string(info.param); });

TEST(ShippedText, OfProseAndTablesRepeatsNoLongLine) {
  for (const std::string_view kind : {"fiction", "technical", "tables"}) {
    const Result<Filler> filler = load_filler(kind);
    ASSERT_TRUE(filler.ok());
    std::set<std::string_view> lines;
    const std::string_view text = filler->text;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = text.find('\n', begin);
      const std::string_view line = text.substr(begin, end - begin);
      const bool repeated = line.size() >= 60 && !lines.insert(line).second;
      EXPECT_FALSE(repeated) << kind << ": " << line;
      begin = end + 1;
    }
  }
}

TEST(Corpus, MissingTextSaysWhereItIsLookedFor) {
  const Result<Filler> filler = load_filler("poetry");
  ASSERT_FALSE(filler.ok());
  EXPECT_EQ(filler.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(filler.status().message(), HasSubstr("data/eval/poetry.txt"));
  EXPECT_THAT(filler.status().message(), HasSubstr("TOKENSIEVE_SHARE"));
}

TEST(Corpus, RotationKeepsTextAndCuts) {
  const Filler rotated = rotate(sentences(), 2);
  EXPECT_EQ(rotated.text, "Three!\nFour.\nOne. Two two. ");
  EXPECT_THAT(rotated.cuts, ElementsAre(0u, 7u, 13u, 18u));
  EXPECT_EQ(rotate(sentences(), 0).text, sentences().text);
}

TEST(Corpus, PrefixEndsWithAWordOrANearSentence) {
  EXPECT_EQ(prefix_size(sentences(), 0), 0u);
  EXPECT_EQ(prefix_size(sentences(), 3), 0u);   // no whole word
  EXPECT_EQ(prefix_size(sentences(), 5), 5u);   // a sentence
  EXPECT_EQ(prefix_size(sentences(), 11), 9u);  // a word
  EXPECT_EQ(prefix_size(sentences(), 999), 27u);
  Filler longer{"fiction", std::string(200, 'a') + ". B b b b ", {0, 202}};
  EXPECT_EQ(prefix_size(longer, 206), 202u);  // within 2 %
  EXPECT_EQ(prefix_size(longer, 210), 210u);
}

TEST(Corpus, WeavesFactsBetweenSentences) {
  const uint32_t half = 1u << 31;
  const std::vector<Fact> facts = {{0, "Start."}, {half, "Middle."}, {~0u, "End."}};
  EXPECT_EQ(weave(sentences(), 27, facts), "Start.\nOne. Two two. Middle. Three!\nEnd.\nFour.");
}

TEST(Corpus, FactsAtOnePlaceKeepTheirOrder) {
  const uint32_t half = 1u << 31;
  const std::vector<Fact> facts = {{half, "A."}, {half + 1, "B."}};
  EXPECT_EQ(weave(sentences(), 27, facts), "One. Two two. A. B. Three!\nFour.");
}

TEST(Corpus, WithoutTextOnlyFactsRemain) {
  const std::vector<Fact> facts = {{0, "A."}, {1u << 31, "B."}};
  EXPECT_EQ(weave(sentences(), 0, facts), "A.\nB.");
}

TEST(Corpus, VocabularyHasWholeLowerCaseWordsOnce) {
  const Filler filler{
      "fiction", "Anna didn't walk; they walk and walked extraordinarily far.", {0}};
  EXPECT_THAT(vocabulary(filler), ElementsAre("they", "walk", "walked"));
}

}  // namespace
}  // namespace tokensieve::eval
