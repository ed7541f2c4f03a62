// The published estimators of block masks, in double precision; sources in blocks.h.
//
// Sums are compared in fixed point, so that thresholds of 0 and 1 are exact and no order of
// summation matters. Ties go to the lowest index.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tiles.h"
#include "ref/oracle.h"

namespace tokensieve::ref {

// The threshold of mask m: its own if the caller gives one each.
double own_threshold(const AttentionInputs& inputs, int64_t m, double common);

// Sets the tiles that mask m of sequence b visits, and the columns of kVerticalSlash; `mask` is all
// zeros. NaN or inf in what the tiles are chosen by: every tile.
void estimate(const Plan& plan, const AttentionInputs& inputs, int64_t b,
              const Selection& selection, int64_t m, const MaskRows& mask,
              std::vector<int32_t>& columns);

void visit_all(const TileGrid& grid, int64_t t, const MaskRows& mask);

// What an estimator sees of a query head: its rows and keys in the coordinates of its mask. Softcap
// and attention sinks take no part.
struct HeadRows {
  TileGrid grid;
  int64_t dim = 0;
  std::vector<double> q;  // [grid.rows(), dim], times sm_scale
  std::vector<double> k;  // [grid.keys, dim]

  const double* query(int64_t position) const { return &q[(position - grid.first_row) * dim]; }
  const double* key(int64_t position) const { return &k[position * dim]; }
};

// Each sets the tiles of one mask. False: NaN or inf came up, and no tile counts.
bool flex(const HeadRows& head, const BlockConfig& blocks, double gamma, const MaskRows& mask);
bool pooled(const HeadRows& head, const BlockConfig& blocks, double alpha, const MaskRows& mask);
bool pooled_shared(std::span<const HeadRows> heads, const BlockConfig& blocks, double alpha,
                   const MaskRows& mask);
bool antidiagonal(const HeadRows& head, const BlockConfig& blocks, double threshold,
                  const MaskRows& mask);
bool vertical_slash(const HeadRows& head, const VerticalSlashSizes& sizes, const MaskRows& mask,
                    std::vector<int32_t>& columns);

// What they share.

// Mean mass of the newest `rows` rows, which need not be a tile of the grid.
struct Probe {
  std::vector<double> vertical;  // [keys]: by key
  std::vector<double> slash;     // [keys]: by distance
};
Probe probe(const HeadRows& head, int64_t rows);

// Means of `size` rows of x [rows, dim], the last one over those that there are.
std::vector<double> tile_means(std::span<const double> x, int64_t dim);

bool all_finite(std::span<const double> x);

// Units of 2^-48.
int64_t fixed_point(double x);
std::vector<int64_t> fixed_point(std::span<const double> x);

// The mass that `share` of `total` covers, the rest rounded: all of it for a share of 1.
int64_t share_of(int64_t total, double share);

// Indices by value, largest first.
std::vector<int64_t> descending(std::span<const double> values);

// 1 + how many of the largest values have at most `share` of their sum together.
int64_t cover_count(std::span<const double> values, double share);

// The first tile and the largest others, `count` together or all.
std::vector<int64_t> top_tiles(std::span<const double> values, int64_t count);

}  // namespace tokensieve::ref
