#include "mask.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace tokensieve::ggml {
namespace {

// How row i differs from row i - 1: the one cell that it adds, or kBreak.
constexpr int32_t kBreak = -1;

constexpr int64_t kRowsPerTask = 32;
constexpr int64_t kChunk = 256;  // cells compared at once: 512 bytes, a multiple of all vectors

constexpr std::array<uint16_t, kChunk> kHiddenCells = [] {
  std::array<uint16_t, kChunk> cells{};
  cells.fill(kMaskedBits);
  return cells;
}();

bool is_zero(uint16_t bits) { return (bits & 0x7fff) == 0; }

int64_t tasks_for(int64_t count, int64_t per_task) { return (count + per_task - 1) / per_task; }

// The only cell in which the rows differ; `cells` if there is none, kBreak if there are several.
int64_t single_difference(const uint16_t* a, const uint16_t* b, int64_t cells) {
  int64_t found = cells;
  for (int64_t begin = 0; begin < cells; begin += kChunk) {
    const int64_t count = std::min(kChunk, cells - begin);
    if (std::memcmp(a + begin, b + begin, count * sizeof(uint16_t)) == 0) continue;
    for (int64_t j = begin; j < begin + count; ++j) {
      if (a[j] == b[j]) continue;
      if (found != cells) return kBreak;
      found = j;
    }
  }
  return found;
}

int32_t step_of(const MaskView& mask, int64_t row) {
  const uint16_t* before = mask.row(row - 1);
  const uint16_t* now = mask.row(row);
  const int64_t cell = single_difference(before, now, mask.cells);
  if (cell == kBreak || cell == mask.cells) return kBreak;
  const bool adds = before[cell] == kMaskedBits && is_zero(now[cell]);
  return adds ? static_cast<int32_t>(cell) : kBreak;
}

// Whether a causal run may start here: only 0 and -inf, and something visible.
bool may_start_run(const uint16_t* row, int64_t cells) {
  unsigned odd = 0;
  unsigned visible = 0;
  for (int64_t j = 0; j < cells; ++j) {
    const unsigned masked = row[j] == kMaskedBits;
    const unsigned zero = is_zero(row[j]);
    odd |= (masked | zero) ^ 1u;
    visible |= zero;
  }
  return odd == 0 && visible != 0;
}

// Cells of `row` in ascending order.
void append_visible(const uint16_t* row, int64_t cells, std::vector<int32_t>& out) {
  for (int64_t j = 0; j < cells; ++j) {
    if (row[j] != kMaskedBits) out.push_back(static_cast<int32_t>(j));
  }
}

void add_causal(const MaskView& mask, int64_t first, int64_t count, MaskAnalysis& analysis) {
  MaskSegment segment{.causal = true, .first_row = first, .num_rows = count};
  segment.first_cell = static_cast<int64_t>(analysis.cells.size());
  append_visible(mask.row(first), mask.cells, analysis.cells);
  analysis.cells.insert(analysis.cells.end(), analysis.step.begin() + first + 1,
                        analysis.step.begin() + first + count);
  segment.num_cells = static_cast<int64_t>(analysis.cells.size()) - segment.first_cell;
  segment.pairs = count * (segment.num_cells - count) + count * (count + 1) / 2;
  analysis.segments.push_back(segment);
}

// Sets the flags of cells that rows [first, first + count) see; returns how many pairs they are.
int64_t scan_rows(const MaskView& mask, int64_t first, int64_t count, uint8_t* flags) {
  int64_t pairs = 0;
  for (int64_t i = first; i < first + count; ++i) {
    const uint16_t* row = mask.row(i);
    for (int64_t begin = 0; begin < mask.cells; begin += kChunk) {
      const int64_t end = std::min(mask.cells, begin + kChunk);
      const size_t bytes = static_cast<size_t>(end - begin) * sizeof(uint16_t);
      if (std::memcmp(row + begin, kHiddenCells.data(), bytes) == 0) continue;
      int32_t visible = 0;
      for (int64_t j = begin; j < end; ++j) {
        const uint8_t seen = row[j] != kMaskedBits;
        flags[j] |= seen;
        visible += seen;
      }
      pairs += visible;
    }
  }
  return pairs;
}

void add_biased(const MaskView& mask, int64_t first, int64_t count, Executor& executor,
                MaskAnalysis& analysis) {
  const int64_t blocks = tasks_for(count, kMaxBiasedRows);
  analysis.flags.assign(static_cast<size_t>(blocks * mask.cells), 0);
  analysis.pairs.resize(static_cast<size_t>(blocks));
  const auto rows_of = [&](int64_t block) {
    return std::min(kMaxBiasedRows, count - block * kMaxBiasedRows);
  };
  executor.parallel_for(blocks, [&](int64_t block, int) {
    analysis.pairs[block] = scan_rows(mask, first + block * kMaxBiasedRows, rows_of(block),
                                      analysis.flags.data() + block * mask.cells);
  });
  for (int64_t block = 0; block < blocks; ++block) {
    MaskSegment segment{.first_row = first + block * kMaxBiasedRows,
                        .num_rows = rows_of(block),
                        .pairs = analysis.pairs[block]};
    segment.first_cell = static_cast<int64_t>(analysis.cells.size());
    const uint8_t* flags = analysis.flags.data() + block * mask.cells;
    for (int64_t j = 0; j < mask.cells; ++j) {
      if (flags[j] != 0) analysis.cells.push_back(static_cast<int32_t>(j));
    }
    segment.num_cells = static_cast<int64_t>(analysis.cells.size()) - segment.first_cell;
    analysis.segments.push_back(segment);
  }
}

// A sliding window and a chunk of attention begin like a prompt of their own: only the rest of the
// mask tells. A run that sees older cells may share the node with other rows if none of the later
// ones loses a cell; one that sees only its own rows must be all there is.
bool is_plain(const MaskView& mask, const MaskSegment& s, const MaskAnalysis& analysis) {
  if (s.num_rows == mask.rows) return true;
  if (s.num_rows == s.num_cells) return false;
  const int32_t* cells = analysis.cells.data() + s.first_cell;
  for (int64_t i = s.first_row + s.num_rows; i < mask.rows; ++i) {
    const uint16_t* row = mask.row(i);
    const auto hidden = [&](int32_t cell) { return row[cell] == kMaskedBits; };
    if (std::any_of(cells, cells + s.num_cells, hidden)) return false;
  }
  return true;
}

}  // namespace

void analyze_mask(const MaskView& mask, bool force_bias, Executor& executor,
                  MaskAnalysis& analysis) {
  analysis.segments.clear();
  analysis.cells.clear();
  if (mask.rows == 0) return;
  if (force_bias) return add_biased(mask, 0, mask.rows, executor, analysis);

  analysis.step.assign(static_cast<size_t>(mask.rows), kBreak);
  executor.parallel_for(tasks_for(mask.rows, kRowsPerTask), [&](int64_t task, int) {
    const int64_t end = std::min(mask.rows, (task + 1) * kRowsPerTask);
    for (int64_t i = std::max<int64_t>(1, task * kRowsPerTask); i < end; ++i) {
      analysis.step[i] = step_of(mask, i);
    }
  });

  int64_t pending = 0;  // first row that has no segment yet
  for (int64_t first = 0; first < mask.rows;) {
    int64_t end = first + 1;
    while (end < mask.rows && analysis.step[end] != kBreak) ++end;
    if (end - first >= kMinCausalRows && may_start_run(mask.row(first), mask.cells)) {
      if (pending < first) add_biased(mask, pending, first - pending, executor, analysis);
      add_causal(mask, first, end - first, analysis);
      pending = end;
    }
    first = end;
  }
  if (pending < mask.rows) {
    add_biased(mask, pending, mask.rows - pending, executor, analysis);
  }
  for (MaskSegment& segment : analysis.segments) {
    segment.plain = segment.causal && is_plain(mask, segment, analysis);
  }
}

}  // namespace tokensieve::ggml
