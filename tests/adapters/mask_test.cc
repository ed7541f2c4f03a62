// Mask analysis: a table of the masks that llama.cpp makes, and random ones.
#include "mask.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "mask_properties.h"

namespace tokensieve::ggml {
namespace {

MaskAnalysis analyze(const TestMask& mask, bool force_bias = false) {
  MaskAnalysis analysis;
  analyze_mask(mask.view(), force_bias, serial_executor(), analysis);
  EXPECT_EQ(check_analysis(mask, force_bias, analysis), "");
  return analysis;
}

// Row i sees `past` cells and i + 1 more.
TestMask causal_mask(int64_t rows, int64_t past, int64_t cells, int64_t padding = 0) {
  TestMask mask(rows, cells, padding);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j <= past + i; ++j) mask.allow(i, j);
  }
  return mask;
}

TEST(Mask, WholePromptIsOneCausalSegment) {
  const MaskAnalysis a = analyze(causal_mask(300, 0, 512));
  ASSERT_EQ(a.segments.size(), 1u);
  EXPECT_TRUE(a.segments[0].causal);
  EXPECT_EQ(a.segments[0].num_cells, 300);
  for (int32_t j = 0; j < 300; ++j) EXPECT_EQ(a.cells[j], j);
}

TEST(Mask, ChunkSeesThePastFirst) {
  const MaskAnalysis a = analyze(causal_mask(257, 1000, 1280, 8));
  ASSERT_EQ(a.segments.size(), 1u);
  EXPECT_TRUE(a.segments[0].causal);
  EXPECT_EQ(a.segments[0].num_rows, 257);
  EXPECT_EQ(a.segments[0].num_cells, 1257);
}

TEST(Mask, CellsAreOrderedByTheRowThatFirstSeesThem) {
  TestMask mask(100, 256);
  // Past in odd cells, the chunk in descending even cells, the rest empty.
  for (int64_t i = 0; i < 100; ++i) {
    for (int64_t j = 1; j < 21; j += 2) mask.allow(i, j);
    for (int64_t t = 0; t <= i; ++t) mask.allow(i, 254 - 2 * t);
  }
  const MaskAnalysis a = analyze(mask);
  ASSERT_EQ(a.segments.size(), 1u);
  EXPECT_EQ(a.segments[0].num_cells, 110);
  EXPECT_EQ(a.cells[9], 19);
  EXPECT_EQ(a.cells[10], 254);
  EXPECT_EQ(a.cells[109], 254 - 2 * 99);
}

TEST(Mask, EachSequenceOfAUnifiedBatchIsARun) {
  TestMask mask(300, 512);
  for (int64_t i = 0; i < 100; ++i) {
    for (int64_t j = 0; j <= i; ++j) mask.allow(i, j);
  }
  for (int64_t i = 100; i < 300; ++i) {
    for (int64_t j = 100; j <= i; ++j) mask.allow(i, j);
  }
  const MaskAnalysis a = analyze(mask);
  ASSERT_EQ(a.segments.size(), 2u);
  EXPECT_EQ(a.segments[1].first_row, 100);
  EXPECT_EQ(a.segments[1].num_cells, 200);
  EXPECT_EQ(a.cells[a.segments[1].first_cell], 100);
}

TEST(Mask, SlidingWindowIsCausalUntilItIsFull) {
  TestMask mask(400, 512);
  for (int64_t i = 0; i < 400; ++i) {
    for (int64_t j = std::max<int64_t>(0, i - 127); j <= i; ++j) mask.allow(i, j);
  }
  const MaskAnalysis a = analyze(mask);
  ASSERT_EQ(a.segments.size(), 2u);
  EXPECT_TRUE(a.segments[0].causal);
  EXPECT_EQ(a.segments[0].num_rows, 128);
  EXPECT_FALSE(a.segments[1].causal);
  EXPECT_EQ(a.segments[1].num_cells, 399);  // row 128 no longer sees cell 0
  EXPECT_EQ(a.cells[a.segments[1].first_cell], 1);
}

TEST(Mask, NonCausalIsBiased) {
  TestMask mask(300, 512);
  for (int64_t i = 0; i < 300; ++i) {
    for (int64_t j = 0; j < 300; ++j) mask.allow(i, j);
  }
  const MaskAnalysis a = analyze(mask);
  ASSERT_EQ(a.segments.size(), 1u);
  EXPECT_FALSE(a.segments[0].causal);
  EXPECT_EQ(a.segments[0].num_cells, 300);
}

TEST(Mask, ValuesOtherThanZeroAreBiased) {
  TestMask mask = causal_mask(300, 0, 512);
  for (int64_t i = 0; i < 300; ++i) {
    for (int64_t j = 0; j <= i; ++j) mask.at(i, j) = j == i ? 0 : 0xbc00;  // -1 off the diagonal
  }
  const MaskAnalysis a = analyze(mask);
  ASSERT_EQ(a.segments.size(), 1u);
  EXPECT_FALSE(a.segments[0].causal);
}

TEST(Mask, ANanOrAFiniteValueInOneRowCostsOnlyThatRun) {
  TestMask mask = causal_mask(300, 0, 512);
  mask.at(150, 7) = 0x7e00;
  const MaskAnalysis a = analyze(mask);
  ASSERT_EQ(a.segments.size(), 3u);
  EXPECT_TRUE(a.segments[0].causal);
  EXPECT_FALSE(a.segments[1].causal);
  EXPECT_EQ(a.segments[1].num_rows, 1);
  EXPECT_TRUE(a.segments[2].causal);
}

TEST(Mask, NegativeZeroIsZero) {
  TestMask mask = causal_mask(100, 0, 128);
  for (uint16_t& bits : mask.bits) {
    if (bits == 0) bits = 0x8000;
  }
  EXPECT_TRUE(analyze(mask).segments[0].causal);
}

TEST(Mask, NothingVisible) {
  const MaskAnalysis a = analyze(TestMask(300, 512));
  ASSERT_EQ(a.segments.size(), 1u);
  EXPECT_FALSE(a.segments[0].causal);
  EXPECT_EQ(a.segments[0].num_cells, 0);
}

TEST(Mask, ForcedBias) {
  const MaskAnalysis a = analyze(causal_mask(300, 10, 512), true);
  ASSERT_EQ(a.segments.size(), 1u);
  EXPECT_FALSE(a.segments[0].causal);
  EXPECT_EQ(a.segments[0].num_cells, 310);
}

TEST(Mask, ShortRunsAreBiased) {
  EXPECT_FALSE(analyze(causal_mask(kMinCausalRows - 1, 5, 512)).segments[0].causal);
  EXPECT_TRUE(analyze(causal_mask(kMinCausalRows, 5, 512)).segments[0].causal);
}

TEST(Mask, ScratchOfAnEarlierLargerMaskDoesNotShine) {
  MaskAnalysis analysis;
  const TestMask large = causal_mask(400, 600, 1024);
  analyze_mask(large.view(), false, serial_executor(), analysis);
  const TestMask small = causal_mask(80, 3, 96);
  analyze_mask(small.view(), false, serial_executor(), analysis);
  EXPECT_EQ(check_analysis(small, false, analysis), "");
}

// ---- random masks -------------------------------------------------------------------------------

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  int64_t below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }
  bool once_in(int64_t n) { return below(n) == 0; }

  // Blocks of rows, each of another kind, over cells in random order.
  TestMask mask() {
    TestMask mask(1 + below(300), 1 + below(700), below(9));
    std::vector<int64_t> order(mask.cells);
    for (int64_t j = 0; j < mask.cells; ++j) order[j] = j;
    if (once_in(2)) std::shuffle(order.begin(), order.end(), random_);
    for (int64_t row = 0; row < mask.rows;) {
      const int64_t end = std::min(mask.rows, row + 1 + below(200));
      fill(mask, row, end, order);
      row = end;
    }
    if (once_in(4)) mask.at(below(mask.rows), below(mask.cells)) = odd_value();
    return mask;
  }

 private:
  void fill(TestMask& mask, int64_t begin, int64_t end, const std::vector<int64_t>& order) {
    const int64_t kind = below(6);
    const int64_t start = below(mask.cells / 4 + 1);
    const int64_t past = below(mask.cells / 4 + 1);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t newest = past + i - begin;
      const int64_t oldest = kind == 1 ? std::max<int64_t>(0, newest - 70) : 0;  // window
      for (int64_t t = oldest; t <= (kind == 2 ? past : newest) && kind < 4; ++t) {
        if (start + t < mask.cells) mask.allow(i, order[start + t]);
      }
      if (kind == 4) mask.allow(i, below(mask.cells));
    }
  }
  uint16_t odd_value() {
    const uint16_t values[] = {0x8000, 0xbc00, 0x7c00, 0x7e00, 0x0001, kMaskedBits, 0};
    return values[below(7)];
  }

  std::mt19937_64 random_;
};

TEST(Mask, RandomMasksMatchTheDefinition) {
  const std::unique_ptr<Executor> pool = make_thread_pool(3);
  MaskAnalysis analysis;  // reused, as in the plug-in
  int64_t causal = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    Generator generator(seed);
    const TestMask mask = generator.mask();
    const bool force_bias = generator.once_in(10);
    Executor& executor = seed % 2 == 0 ? *pool : serial_executor();
    analyze_mask(mask.view(), force_bias, executor, analysis);
    ASSERT_EQ(check_analysis(mask, force_bias, analysis), "") << "seed " << seed;
    for (const MaskSegment& segment : analysis.segments) causal += segment.causal;
  }
  EXPECT_GT(causal, 100);  // the generator does make what the test is about
}

}  // namespace
}  // namespace tokensieve::ggml
