// The words of enumerations and the texts of reasons.
#include "tokensieve/names.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace tokensieve {
namespace {

template <typename E>
class Words : public testing::Test {};
using Enumerations = testing::Types<BudgetPolicy, Share, Fill, Queries, Arithmetic, DensePolicy,
                                    DType, Backend, Isa, Products, Path, Stage>;
TYPED_TEST_SUITE(Words, Enumerations);

TYPED_TEST(Words, AreReadBack) {
  std::string all;
  for (size_t i = 0; i < kWords<TypeParam>.size(); ++i) {
    const auto value = static_cast<TypeParam>(i);
    EXPECT_TRUE(is_valid(value));
    EXPECT_EQ(parse<TypeParam>(name_of(value)), value);
    all += (i == 0 ? "" : ", ") + std::string(name_of(value));
  }
  EXPECT_EQ(allowed_words<TypeParam>(), all);
}

TYPED_TEST(Words, NothingElseIsOne) {
  for (const int64_t value : {int64_t{-1}, static_cast<int64_t>(kWords<TypeParam>.size())}) {
    EXPECT_FALSE(is_valid(static_cast<TypeParam>(value)));
    EXPECT_STREQ(name_of(static_cast<TypeParam>(value)), "unknown");
  }
  for (const char* word : {"", "unknown", "x"}) EXPECT_FALSE(parse<TypeParam>(word)) << word;
  EXPECT_FALSE(parse<TypeParam>(std::string(kWords<TypeParam>[0]) + " "));
}

TEST(Names, AreThoseOfTheHeader) {
  EXPECT_STREQ(name_of(Fill::kLocal), "local");
  EXPECT_STREQ(name_of(BudgetPolicy::kKeepCount), "keep_count");
  EXPECT_STREQ(name_of(Arithmetic::kReferenceRounding), "reference_rounding");
  EXPECT_STREQ(allowed_words<Share>(), "head, kv, layer");
  EXPECT_STREQ(backend_name(Backend::kCuda), "cuda");
  EXPECT_STREQ(dtype_name(DType::kBF16), "bf16");
  EXPECT_STREQ(isa_name(Isa::kBaseline), "baseline");
  EXPECT_STREQ(isa_name(Isa::kAmxEmulated), "amx_emulated");
  EXPECT_STREQ(allowed_words<Products>(), "auto, exact, split, bf16");
  EXPECT_STREQ(stage_name(Stage::kScatter), "scatter");
}

// As many texts as the enumeration has entries up to `last`, all different.
template <typename E>
void expect_own_texts(E last, const char* (*text)(E)) {
  std::set<std::string> texts;
  const int count = static_cast<int>(last) + 1;
  for (int i = 0; i < count; ++i) texts.insert(text(static_cast<E>(i)));
  EXPECT_EQ(texts.size(), static_cast<size_t>(count));
  EXPECT_EQ(texts.count("unknown"), 0u);
  EXPECT_STREQ(text(static_cast<E>(count)), "unknown");
}

TEST(Reasons, HaveATextOfTheirOwn) {
  expect_own_texts(DenseReason::kFewRows, dense_reason_text);
  expect_own_texts(ProductsReason::kColumns, products_reason_text);
}

}  // namespace
}  // namespace tokensieve
