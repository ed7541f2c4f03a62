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
  EXPECT_EQ(a.segments[0].pairs + a.segments[1].pairs, 128 * 129 / 2 + 272 * 128);
}

// ---- which runs are plain causal: decided by the whole mask -------------------------------------

// `rows` tokens after `past` others; token t lies in cell t. A window shows the newest `window`
// tokens, a chunk those since the last multiple of `chunk`; 0: no limit.
TestMask prompt_mask(int64_t rows, int64_t past, int64_t window, int64_t chunk = 0) {
  TestMask mask(rows, (past + rows + 255) / 256 * 256);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t token = past + i;
    int64_t first = window > 0 ? std::max<int64_t>(0, token - window + 1) : 0;
    if (chunk > 0) first = token / chunk * chunk;
    for (int64_t j = first; j <= token; ++j) mask.allow(i, j);
  }
  return mask;
}

int64_t plain_rows(const TestMask& mask) {
  MaskAnalysis analysis;
  analyze_mask(mask.view(), false, serial_executor(), analysis);
  int64_t rows = 0;
  for (const MaskSegment& segment : analysis.segments) {
    if (segment.plain) rows += segment.num_rows;
  }
  return rows;
}

TEST(PlainCausal, AWindowThatCutsAnythingIsNeverPlain) {
  for (const int64_t past : {0, 100, 511, 512}) {
    for (const int64_t rows : {64, 300, 700}) {
      for (const int64_t window : {1, 63, 64, 128, 299, 300, 512, 640, 1000, 1024, 4096}) {
        const bool cuts = window < past + rows;
        EXPECT_EQ(plain_rows(prompt_mask(rows, past, window)), cuts ? 0 : rows)
            << rows << " rows after " << past << ", window " << window;
      }
    }
  }
}

TEST(PlainCausal, ChunksOfAttentionAreNotPromptsOfTheirOwn) {
  // The first row after a boundary sees itself only, as a new prompt's does.
  for (const int64_t past : {0, 200, 256, 500}) {
    for (const int64_t chunk : {100, 256, 512, 600}) {
      if (past / chunk == (past + 299) / chunk) continue;  // no boundary in this ubatch
      EXPECT_EQ(plain_rows(prompt_mask(300, past, 0, chunk)), 0) << past << " " << chunk;
    }
  }
}

TEST(PlainCausal, PackedPromptsAreNot) {
  TestMask mask(300, 512);
  for (int64_t i = 0; i < 300; ++i) {
    for (int64_t j = i < 120 ? 0 : 120; j <= i; ++j) mask.allow(i, j);
  }
  EXPECT_EQ(analyze(mask).segments.size(), 2u);
  EXPECT_EQ(plain_rows(mask), 0);
}

// A server's ubatch: rows that answer (one token each of other sequences), then a prompt's chunk.
TEST(PlainCausal, AChunkAfterRowsOfOtherSequencesIsPlain) {
  TestMask mask(203, 1024);
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t j = 0; j < 50; ++j) mask.allow(i, 700 + 50 * i + j);
  }
  for (int64_t i = 3; i < 203; ++i) {
    for (int64_t j = 0; j < 400 + i; ++j) mask.allow(i, j);
  }
  EXPECT_EQ(plain_rows(mask), 200);
  // The same rows without a past may be what follows a boundary of chunked attention.
  for (int64_t i = 3; i < 203; ++i) {
    for (int64_t j = 0; j < 403; ++j) mask.at(i, j) = kMaskedBits;
  }
  EXPECT_EQ(plain_rows(mask), 0);
}

TEST(PlainCausal, PaddingOfCellsIsPlainAndRowsThatSeeNothingAreNot) {
  EXPECT_EQ(plain_rows(causal_mask(300, 0, 512, 64)), 300);
  EXPECT_EQ(plain_rows(causal_mask(300, 900, 2048, 64)), 300);
  TestMask mask(320, 512);
  for (int64_t i = 0; i < 300; ++i) {
    for (int64_t j = 0; j <= i; ++j) mask.allow(i, j);
  }
  EXPECT_EQ(plain_rows(mask), 0);
}

TEST(Mask, RowsOfAWindowNameOnlyTheirCells) {
  const TestMask mask = prompt_mask(4096, 0, 200);
  MaskAnalysis a;
  analyze_mask(mask.view(), false, serial_executor(), a);
  ASSERT_GT(a.segments.size(), 7u);
  for (const MaskSegment& segment : a.segments) {
    EXPECT_LE(segment.num_cells, kMaxBiasedRows + 200);
  }
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
