#include "ref/elements.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "core/budget.h"
#include "support/case_data.h"

namespace tokensieve::ref {
namespace {

class ElementsTest : public testing::TestWithParam<SmallFloat> {};

TEST_P(ElementsTest, EveryValueSurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const double x = decode(static_cast<uint16_t>(bits), GetParam());
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(decode(encode(x, GetParam()), GetParam())));
    } else {
      ASSERT_EQ(encode(x, GetParam()), bits) << x;
    }
  }
}

TEST_P(ElementsTest, RoundsToNearestEven) {
  for (uint16_t bits = 0; bits + 1 < GetParam().infinity; ++bits) {
    const double low = decode(bits, GetParam());
    const double high = decode(bits + 1, GetParam());
    const double middle = (low + high) / 2;
    const uint16_t even = bits % 2 == 0 ? bits : bits + 1;
    ASSERT_EQ(encode(middle, GetParam()), even) << middle;
    ASSERT_EQ(encode(std::nextafter(middle, low), GetParam()), bits) << middle;
    ASSERT_EQ(encode(std::nextafter(middle, high), GetParam()), bits + 1) << middle;
    ASSERT_EQ(encode(-middle, GetParam()), even | 0x8000) << middle;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, ElementsTest, testing::Values(kF16, kBF16), [](const auto& info) {
  return std::string(info.param.mantissa == 10 ? "f16" : "bf16");
});

TEST(ElementsTest, Overflows) {
  EXPECT_EQ(encode(65519.99, kF16), 0x7bff);  // below half-way to 2^16
  EXPECT_EQ(encode(65520.0, kF16), 0x7c00);
  EXPECT_EQ(encode(-1e300, kF16), 0xfc00);
  EXPECT_EQ(encode(3.4e38, kBF16), 0x7f80);
  EXPECT_EQ(encode(1e-300, kBF16), 0);
  EXPECT_EQ(encode(-INFINITY, kBF16), 0xff80);
}

TEST(ElementsTest, KnownValues) {
  EXPECT_EQ(decode(0x3c00, kF16), 1.0);
  EXPECT_EQ(decode(0x0001, kF16), 0x1p-24);
  EXPECT_EQ(decode(0x7bff, kF16), 65504.0);
  EXPECT_EQ(decode(0xc000, kBF16), -2.0);
}

TEST(ElementsTest, AgreesWithCoresBf16) {
  test::Random random(1);
  for (int i = 0; i < 100000; ++i) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(random.next()));
    if (std::isnan(x)) continue;
    ASSERT_EQ(static_cast<float>(round_to(x, kBF16)), round_bf16(x)) << x;
  }
}

}  // namespace
}  // namespace tokensieve::ref
