// Stage attend: online softmax of one tile of query rows over packed keys.
//
// Per block of 256 keys: S = Q K^T (all rows against one 64-key panel at a time, which stays in
// L1), then 6 rows at a time softmax in place and O += P V. O is read and written once a block.
#if defined(TOKENSIEVE_CPU_ATTEND_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENSIEVE_CPU_ATTEND_INL_H_
#undef TOKENSIEVE_CPU_ATTEND_INL_H_
#else
#define TOKENSIEVE_CPU_ATTEND_INL_H_
#endif

#include <algorithm>

#include "cpu/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tokensieve::cpu {
namespace HWY_NAMESPACE {

// Softmax steps over two vectors; S is computed in these units.
constexpr int kStepCols = 2 * kLanes;
static_assert(kPanelCols % kStepCols == 0);

// S of all rows against kVecs vectors of columns at p.
template <int kVecs>
HWY_INLINE void logits_columns(const Tile& tile, const float* panel, int p) {
  for (int r = 0; r < tile.rows;) {
    const float* q = tile.q + static_cast<int64_t>(r) * tile.dim;
    float* s = tile.s + static_cast<int64_t>(r) * kBlockKeys + p;
    const int rows = next_rows(tile.rows - r);
    if (rows == 6) gemm<6, kVecs, false>(q, tile.dim, panel, kPanelCols, s, kBlockKeys, tile.dim);
    if (rows == 4) gemm<4, kVecs, false>(q, tile.dim, panel, kPanelCols, s, kBlockKeys, tile.dim);
    r += rows;
  }
}

// S of all rows against the first `cols` keys of the panels at kt; cols is a multiple of
// kStepCols.
HWY_INLINE void logits_block(const Tile& tile, const float* kt, int cols) {
  int p = 0;
  for (; p + kPanelCols <= cols; p += kPanelCols) {
    logits_columns<kVectors>(tile, kt + static_cast<int64_t>(p) * tile.dim, p);
  }
  if (p < cols) logits_columns<2>(tile, kt + static_cast<int64_t>(p) * tile.dim, p);
}

template <int kRows, int kVecs>
HWY_INLINE void values_columns(const Tile& tile, int r, const float* v, int begin, int end,
                               int column) {
  gemm<kRows, kVecs, true>(tile.s + static_cast<int64_t>(r) * kBlockKeys + begin, kBlockKeys,
                           v + static_cast<int64_t>(begin) * tile.dim + column, tile.dim,
                           tile.o + static_cast<int64_t>(r) * tile.dim + column, tile.dim,
                           end - begin);
}

// O[r, r + kRows) += P V over keys [begin, end) of the block.
template <int kRows>
HWY_INLINE void values_rows(const Tile& tile, int r, const float* v, int begin, int end) {
  int column = 0;
  for (; column + kPanelCols <= tile.dim; column += kPanelCols) {
    values_columns<kRows, kVectors>(tile, r, v, begin, end, column);
  }
  const int left = (tile.dim - column) / kLanes;
  if (left == 1) values_columns<kRows, 1>(tile, r, v, begin, end, column);
  if (left == 2) values_columns<kRows, 2>(tile, r, v, begin, end, column);
  if (left == 3) values_columns<kRows, 3>(tile, r, v, begin, end, column);
}

// The softcap and the additive bias of row r, keys [key, key + cols).
void adjust_logits(float* s, int row, int64_t key, int cols, const Logits& logits) {
  const F32 d;
  if (logits.softcap != 0.0f) {
    const VF32 softcap = hn::Set(d, logits.softcap);
    for (int c = 0; c < cols; c += kLanes) {
      hn::Store(cap_logit(hn::Load(d, s + c), softcap), d, s + c);
    }
  }
  if (logits.bias == nullptr) return;
  const uint16_t* bias = logits.bias + row * logits.bias_stride;
  const VF32 scale = hn::Set(d, logits.bias_scale);
  const VF32 lowest = hn::Set(d, kMasked);
  // Gathered, or copied where a whole vector would read past the row's end.
  HWY_ALIGN uint16_t gathered[kBlockKeys] = {};
  const uint16_t* values = bias + key;
  if (logits.bias_cells != nullptr || cols % kLanes != 0) {
    for (int c = 0; c < cols; ++c) {
      gathered[c] = bias[logits.bias_cells ? logits.bias_cells[key + c] : key + c];
    }
    values = gathered;
  }
  for (int c = 0; c < cols; c += kLanes) {
    const VF32 sum = hn::MulAdd(scale, load_f16(values + c), hn::Load(d, s + c));
    // -inf becomes finite; NaN stays.
    hn::Store(hn::IfThenElse(hn::Lt(sum, lowest), lowest, sum), d, s + c);
  }
}

// Turns S of row r into P over keys [0, seen) of `cols`, the first `skip` excluded; updates m, l
// and rescales o. Writes zeros if nothing is visible.
HWY_INLINE void softmax_row(const Tile& tile, int r, int skip, int seen, int cols) {
  const F32 d;
  float* s = tile.s + static_cast<int64_t>(r) * kBlockKeys;
  for (int c = 0; c < skip; ++c) s[c] = kMasked;
  for (int c = seen; c < cols; ++c) s[c] = kMasked;

  VF32 max0 = hn::Load(d, s);
  VF32 max1 = max0;
  for (int c = kLanes; c + kLanes < cols; c += 2 * kLanes) {
    max0 = hn::Max(max0, hn::Load(d, s + c));
    max1 = hn::Max(max1, hn::Load(d, s + c + kLanes));
  }
  max0 = hn::Max(max0, hn::Load(d, s + cols - kLanes));
  const float block_max = hn::GetLane(hn::MaxOfLanes(d, hn::Max(max0, max1)));
  // The maximum does not tell NaN from masked.
  const auto masked = [](float x) { return x <= 0.5f * kMasked; };
  if (seen <= skip || (masked(block_max) && std::all_of(s + skip, s + seen, masked))) {
    std::fill(s, s + cols, 0.0f);
    return;
  }
  const float old_max = tile.m[r];
  const float new_max = std::max(block_max, old_max);
  const VF32 max = hn::Set(d, new_max);
  VF32 sum0 = hn::Zero(d);
  VF32 sum1 = hn::Zero(d);
  for (int c = 0; c < cols; c += 2 * kLanes) {
    const VF32 p0 = exp2(hn::Sub(hn::Load(d, s + c), max));
    const VF32 p1 = exp2(hn::Sub(hn::Load(d, s + c + kLanes), max));
    sum0 = hn::Add(sum0, p0);
    sum1 = hn::Add(sum1, p1);
    hn::Store(p0, d, s + c);
    hn::Store(p1, d, s + c + kLanes);
  }
  const float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  if (new_max == old_max) {
    tile.l[r] += sum;
    return;
  }
  const float rescale = hn::GetLane(exp2(hn::Set(d, old_max - new_max)));
  tile.l[r] = tile.l[r] * rescale + sum;
  tile.m[r] = new_max;
  const VF32 factor = hn::Set(d, rescale);
  float* o = tile.o + static_cast<int64_t>(r) * tile.dim;
  for (int c = 0; c < tile.dim; c += kLanes) {
    hn::Store(hn::Mul(factor, hn::Load(d, o + c)), d, o + c);
  }
}

// True if no bias value of the block lets any row see any key.
bool fully_masked(const Tile& tile, int64_t key, int cols, const Logits& logits) {
  constexpr uint16_t kMinusInf = 0xfc00;
  for (int r = 0; r < tile.rows; ++r) {
    const uint16_t* bias = logits.bias + r * logits.bias_stride;
    for (int c = 0; c < cols; ++c) {
      const int64_t column = logits.bias_cells ? logits.bias_cells[key + c] : key + c;
      if (bias[column] != kMinusInf) return false;
    }
  }
  return true;
}

// Softmax and O += P V of rows [r, r + kRows) over keys [key, key + valid), the first `skip`
// excluded; S has `cols` columns.
template <int kRows>
HWY_INLINE void attend_row_group(const Tile& tile, int r, const VisibleKeys& keys, int64_t key,
                                 int skip, int valid, int cols, const Logits& logits) {
  const float* v = keys.v + key * tile.dim;
  const int last_row = std::min(r + kRows, tile.rows);
  int seen[kRows];
  int common = valid;  // keys that all rows of the group see
  for (int i = r; i < last_row; ++i) {
    const int64_t end = keys.row_end ? keys.row_end[i] : key + valid;
    seen[i - r] = static_cast<int>(std::clamp<int64_t>(end - key, 0, valid));
    common = std::min(common, seen[i - r]);
    if (logits.softcap != 0.0f || logits.bias != nullptr) {
      adjust_logits(tile.s + static_cast<int64_t>(i) * kBlockKeys, i, key, valid, logits);
    }
    softmax_row(tile, i, skip, seen[i - r], cols);
  }
  common = std::max(common, skip);
  if (common > skip) values_rows<kRows>(tile, r, v, skip, common);
  // The rest row by row: 0 * NaN of a value that a row may not see must not reach it.
  for (int i = r; i < last_row; ++i) {
    if (seen[i - r] > common) values_rows<1>(tile, i, v, common, seen[i - r]);
  }
}

void attend_range(const Tile& tile, const VisibleKeys& keys, const KeyRange& range, int64_t last,
                  const Logits& logits) {
  for (int64_t key = range.begin / kPanelKeys * kPanelKeys; key < last; key += kBlockKeys) {
    const int valid = static_cast<int>(std::min<int64_t>(kBlockKeys, last - key));
    const int step = valid % kPanelCols > kStepCols ? kPanelCols : kStepCols;
    const int cols = (valid + step - 1) / step * step;
    if (logits.bias != nullptr && fully_masked(tile, key, valid, logits)) continue;
    logits_block(tile, keys.kt + key * tile.dim, cols);
    const int skip = static_cast<int>(std::max<int64_t>(0, range.begin - key));
    for (int r = 0; r < tile.rows;) {
      const int rows = next_rows(tile.rows - r);
      if (rows == 6) attend_row_group<6>(tile, r, keys, key, skip, valid, cols, logits);
      if (rows == 4) attend_row_group<4>(tile, r, keys, key, skip, valid, cols, logits);
      r += rows;
    }
  }
}

void attend(const Tile& tile, const VisibleKeys& keys, const Logits& logits) {
  int64_t seen = keys.ranges.empty() ? 0 : keys.ranges.back().end;  // by any row
  if (keys.row_end != nullptr) {
    seen = std::min<int64_t>(seen, *std::max_element(keys.row_end, keys.row_end + tile.rows));
  }
  for (const KeyRange& range : keys.ranges) {
    attend_range(tile, keys, range, std::min(seen, range.end), logits);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#endif
