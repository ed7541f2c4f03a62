// Stage score: mean over the window of the causal softmax, taken at the prefix.
//
// A column mean needs 1/sum of every query before it can add over queries, so K is read twice:
//   pass 1 (score_stats): S = Q K^T, running max and sum of every window row per key range;
//   pass 2 (score_mean): S = K Q^T, so that the sum over queries stays inside a lane quad:
//     token_score[key] = sum over rows of exp2(s - log2(sum of the row) - max - log2(W)).
// One CTA keeps the window rows of a few q heads of one kv head and streams a range of its keys.
#pragma once

#include "cuda/device/launch.h"
#include "cuda/sm90/score/mean.h"

namespace tokensieve::cuda::sm90 {

template <class Traits>
cudaError_t launch_score(const ScoreParams& params, const CUtensorMap& k_map,
                         cudaStream_t stream) {
  constexpr size_t kStatsBytes = sizeof(ScoreShared<Traits, Traits::kStatsTileK>);
  constexpr size_t kMeanBytes = sizeof(ScoreShared<Traits, 64>);
  static_assert(kStatsBytes <= 227 * 1024 && kMeanBytes <= 227 * 1024);
  constexpr int kMaxRows = Traits::kQTiles * Traits::kTileQ;
  const int group_size = params.heads.num_q_heads / params.heads.num_kv_heads;

  // All rows of the window before the first mean: one round unless head_dim 256 has > 256 rows.
  for (const bool mean : {false, true}) {
    for (int first = 0; first < params.obs_window; first += kMaxRows) {
      const int left = params.obs_window - first;
      ScoreRows rows;
      rows.first_row = first;
      rows.row_tiles = ((left < kMaxRows ? left : kMaxRows) + Traits::kTileQ - 1) / Traits::kTileQ;
      rows.heads = Traits::kQTiles / rows.row_tiles;
      const auto groups_of = [&](int heads) { return (group_size + heads - 1) / heads; };
      const int64_t ctas_per_group =
          int64_t{params.splits} * params.heads.num_kv_heads * params.sequences.batch;
      while (rows.heads > 1 &&
             ctas_per_group * groups_of((rows.heads + 1) / 2) <= params.max_ctas) {
        rows.heads = (rows.heads + 1) / 2;
      }
      rows.groups = groups_of(rows.heads);
      rows.accumulate = first > 0;
      LaunchShape shape;
      shape.grid = dim3(params.splits, params.heads.num_kv_heads * rows.groups,
                        params.sequences.batch);
      shape.threads = Traits::kThreads;
      shape.shared_bytes = mean ? kMeanBytes : kStatsBytes;
      const cudaError_t error =
          mean ? launch(score_mean<Traits>, shape, stream, k_map, params, rows)
               : launch(score_stats<Traits>, shape, stream, k_map, params, rows);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

// Both kernels of one element type and head_dim, softcap or not; instantiations/ holds one each.
template <typename T, int kHeadDim>
cudaError_t score_instance(const ScoreParams& params, const CUtensorMap& k_map,
                           cudaStream_t stream);

}  // namespace tokensieve::cuda::sm90
