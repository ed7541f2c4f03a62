// The estimators of block masks. Each sets the tiles of a sequence's masks, which are all zeros, or
// reports that NaN or inf came up: such a mask visits every tile.
//
// Sums are compared in fixed point, so that no order of summation matters; floats are added in
// orders that do not depend on threads. Softcap and attention sinks take no part.
#pragma once

#include <span>

#include "cpu/context.h"

namespace tokensieve::cpu {

// keep: kept prefix tokens of the sets, -1: of all tokens.
void estimate_flex(Context& context, int64_t batch, int64_t keep);
void estimate_pooled(Context& context, int64_t batch, int64_t keep);
void estimate_antidiagonal(Context& context, int64_t batch, int64_t keep);
void estimate_vertical_slash(Context& context, int64_t batch, int64_t keep);  // and columns

// What the plan's estimator needs of the workspace, each in its own file.
size_t estimate_bytes(const Plan& plan, const Kernels& kernels);
size_t flex_bytes(const Plan& plan, const Kernels& kernels);
size_t pooled_bytes(const Plan& plan);
size_t antidiagonal_bytes(const Plan& plan, const Kernels& kernels);
size_t vertical_slash_bytes(const Plan& plan, const Kernels& kernels);

// What they share.

// A query head's rows and keys in the coordinates of its mask: row r of q is position r, from
// grid.first_row on.
struct HeadRows {
  TileGrid grid;
  Rows q;
  Rows k;
};
HeadRows head_rows(const Context& context, int64_t batch, int64_t keep, int64_t q_head);

// Query heads that share their keys: those of a kv head and a set.
struct KeyGroups {
  int64_t count;
  int64_t q_heads;

  int64_t of(int64_t q_head) const { return q_head * count / q_heads; }
  int64_t first_head(int64_t group) const { return group * q_heads / count; }
};
// keep: as above; for memory, the most of any sequence.
KeyGroups key_groups(const Plan& plan, int64_t keep = 0);

// The mean of rows [first, first + count), times scale. rows_scratch [kPanelKeys][dim].
void mean_row(const Kernels& kernels, const Rows& rows, int64_t first, int64_t count, int dim,
              float scale, float* rows_scratch, float* mean);

// Mean keys of the tiles of every group, [groups][mean_tiles][dim].
int64_t mean_tiles(const Plan& plan);
void mean_keys(Context& context, int64_t batch, int64_t keep, float* means);

// The scale of queries whose logits are in the log2 domain.
inline float estimate_scale(const Plan& plan) { return plan.shape.sm_scale * kLog2E; }

inline double own_threshold(const Context& c, int64_t m, double common) {
  return c.in.block_thresholds != nullptr ? c.in.block_thresholds[m] : common;
}

inline void visit_all(const TileGrid& grid, int64_t t, const MaskRows& mask) {
  for (int64_t k = 0; k < grid.end(t); ++k) mask.set(t, k);
}

// NaN or inf came up in the estimate of mask m; from any thread.
void fail(const Context& context, int64_t m);

// Units of 2^-48.
int64_t fixed_point(float x);
int64_t fixed_sum(std::span<const float> values);
// The mass that `share` of `total` covers, the rest rounded: all of it for a share of 1.
int64_t share_of(int64_t total, double share);
// How many of the largest values hold at most `mass` together. Reorders them.
int64_t largest_within(std::span<float> values, int64_t mass);

}  // namespace tokensieve::cpu
