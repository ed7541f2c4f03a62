// What a mask analysis must be, from its definition alone. Shared by the test and the fuzzer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "mask.h"

namespace tokensieve::ggml {

// f16 [rows, cells] with a row stride of its own.
struct TestMask {
  TestMask(int64_t rows, int64_t cells, int64_t padding = 0)
      : rows(rows), cells(cells), stride(cells + padding), bits(rows * stride, kMaskedBits) {}

  uint16_t& at(int64_t row, int64_t cell) { return bits[row * stride + cell]; }
  uint16_t at(int64_t row, int64_t cell) const { return bits[row * stride + cell]; }
  void allow(int64_t row, int64_t cell) { at(row, cell) = 0; }
  MaskView view() const { return {bits.data(), rows, cells, stride}; }

  std::set<int32_t> visible(int64_t row) const {
    std::set<int32_t> set;
    for (int64_t j = 0; j < cells; ++j) {
      if (at(row, j) != kMaskedBits) set.insert(static_cast<int32_t>(j));
    }
    return set;
  }
  bool plain(int64_t row) const {  // 0, -0 and -inf only
    for (int64_t j = 0; j < cells; ++j) {
      if (at(row, j) != kMaskedBits && (at(row, j) & 0x7fff) != 0) return false;
    }
    return true;
  }

  int64_t rows, cells, stride;
  std::vector<uint16_t> bits;
};

struct RowRange {
  int64_t first = 0, count = 0;
  bool operator==(const RowRange&) const = default;
};

// The longest runs in which each row adds exactly one cell to the row before, at least
// kMinCausalRows long.
inline std::vector<RowRange> causal_runs(const TestMask& mask) {
  std::vector<RowRange> runs;
  std::set<int32_t> before;
  int64_t first = 0;
  const auto close = [&](int64_t end) {
    bool usable = end - first >= kMinCausalRows && !mask.visible(first).empty();
    for (int64_t i = first; i < end; ++i) usable = usable && mask.plain(i);
    if (usable) runs.push_back({first, end - first});
  };
  for (int64_t i = 0; i < mask.rows; ++i) {
    const std::set<int32_t> now = mask.visible(i);
    bool adds_one = i > 0 && now.size() == before.size() + 1 &&
                    std::includes(now.begin(), now.end(), before.begin(), before.end());
    for (int64_t j = 0; adds_one && j < mask.cells; ++j) {
      // A value that changes, or a new one other than 0, ends the run too.
      if (mask.at(i, j) == mask.at(i - 1, j)) continue;
      adds_one = before.count(static_cast<int32_t>(j)) == 0 && (mask.at(i, j) & 0x7fff) == 0;
    }
    if (i > 0 && !adds_one) {
      close(i);
      first = i;
    }
    before = now;
  }
  if (mask.rows > 0) close(mask.rows);
  return runs;
}

// Whether the rows of a causal run may be those of plain causal attention, by the whole mask: they
// are all rows, or they have a past and no later row loses a cell of theirs.
inline bool is_plain_run(const TestMask& mask, const MaskSegment& s) {
  if (s.num_rows == mask.rows) return true;
  const std::set<int32_t> newest = mask.visible(s.first_row + s.num_rows - 1);
  bool plain = static_cast<int64_t>(newest.size()) > s.num_rows;
  for (int64_t i = s.first_row + s.num_rows; i < mask.rows; ++i) {
    const std::set<int32_t> later = mask.visible(i);
    plain = plain && std::includes(later.begin(), later.end(), newest.begin(), newest.end());
  }
  return plain;
}

// "" or what is wrong.
inline std::string check_segment(const TestMask& mask, const MaskSegment& s,
                                 const std::vector<int32_t>& all_cells) {
  std::ostringstream error;
  const auto begin = all_cells.begin() + s.first_cell;
  const std::vector<int32_t> cells(begin, begin + s.num_cells);
  size_t pairs = 0;
  for (int64_t i = s.first_row; i < s.first_row + s.num_rows; ++i) pairs += mask.visible(i).size();
  if (s.pairs != static_cast<int64_t>(pairs)) error << pairs << " pairs, not " << s.pairs << "; ";
  if (s.plain != (s.causal && is_plain_run(mask, s))) {
    error << "segment at row " << s.first_row << " is " << (s.plain ? "" : "not ") << "plain; ";
  }
  if (!s.causal) {
    std::set<int32_t> any;
    for (int64_t i = s.first_row; i < s.first_row + s.num_rows; ++i) any.merge(mask.visible(i));
    if (!std::equal(any.begin(), any.end(), cells.begin(), cells.end())) {
      error << "biased segment at row " << s.first_row << " does not list the visible cells";
    }
    return error.str();
  }
  for (int64_t i = 0; i < s.num_rows; ++i) {
    const int64_t limit = s.num_cells - s.num_rows + 1 + i;
    const std::set<int32_t> prefix(cells.begin(), cells.begin() + limit);
    if (prefix != mask.visible(s.first_row + i)) {
      error << "row " << s.first_row + i << " does not see the first " << limit << " cells";
      return error.str();
    }
    if (!mask.plain(s.first_row + i)) error << "row " << s.first_row + i << " has values";
  }
  const int64_t first_limit = s.num_cells - s.num_rows + 1;
  if (!std::is_sorted(cells.begin(), cells.begin() + first_limit)) {
    error << "the first row's cells do not ascend";
  }
  return error.str();
}

inline std::string check_analysis(const TestMask& mask, bool force_bias,
                                  const MaskAnalysis& analysis) {
  std::vector<RowRange> causal;
  int64_t next = 0;
  for (const MaskSegment& segment : analysis.segments) {
    if (segment.first_row != next || segment.num_rows < 1) return "segments do not tile the rows";
    next += segment.num_rows;
    if (segment.causal) causal.push_back({segment.first_row, segment.num_rows});
    const std::string error = check_segment(mask, segment, analysis.cells);
    if (!error.empty()) return error;
  }
  if (next != mask.rows) return "segments do not cover all rows";
  const std::vector<RowRange> expected = force_bias ? std::vector<RowRange>{} : causal_runs(mask);
  if (causal != expected) return "the causal segments are not the longest causal runs";
  return "";
}

}  // namespace tokensieve::ggml
