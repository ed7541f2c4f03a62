// The map of a head's mean queries and mean keys, by which FlexPrefill chooses tiles where it
// predicts the newest rows well.
#pragma once

#include "cpu/arena.h"
#include "cpu/estimate.h"

namespace tokensieve::cpu {

class TileMap {
 public:
  TileMap() = default;
  TileMap(Arena& arena, const Plan& plan, const Kernels& kernels);

  // Visits the largest tiles, which hold gamma of the map's mass together, without the one that
  // crosses it. mean_keys [tiles][dim]; the head has kBlock rows at least. Heads take turns.
  void visit(Context& context, const HeadRows& head, const float* mean_keys, double gamma,
             int64_t m) const;

 private:
  void fill_rows(Context& context, const TileGrid& grid, const float* mean_keys, int64_t first,
                 int count, int thread) const;
  void choose(Context& context, const TileGrid& grid, double gamma, int64_t m) const;

  float* mean_queries_;  // [row_tiles][dim]
  float* map_;           // [row_tiles][key_tiles]
  float* ranked_;        // [row_tiles][key_tiles]: scratch
  int32_t* chosen_;      // [row_tiles][key_tiles]
  float* stats_;         // [threads][2][panel_cols]: maxima and sums of map rows
};

}  // namespace tokensieve::cpu
