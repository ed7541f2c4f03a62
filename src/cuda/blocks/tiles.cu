// kFlex, query-aware heads: the largest tiles of a head's map, which hold gamma of its mass.
#include "cuda/blocks/estimate.h"
#include "cuda/blocks/rules.h"
#include "cuda/blocks/search.h"
#include "cuda/blocks/tokens.h"
#include "cuda/device/launch.h"
#include "cuda/ptx/barrier.h"
#include "cuda/select/block_team.h"

namespace tokensieve::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kWordsPerCta = 2048;
using Team = BlockTeam<kThreads>;

// This CTA's words of 32 tiles, in the order of the mask's.
struct MapKeys {
  const float* map;
  int words;
  __device__ __forceinline__ uint32_t key(int i) const { return score_key(map[i]); }
  __device__ __forceinline__ int quads() const { return words * 8; }
  __device__ __forceinline__ KeyQuad quad(int i) const {
    const float4 x = reinterpret_cast<const float4*>(map)[i];
    return {{score_key(x.x), score_key(x.y), score_key(x.z), score_key(x.w)}};
  }
};

// How many of the largest tiles hold at most gamma of the map; -1: all.
__device__ __forceinline__ int64_t chosen_tiles(Team& team, SearchBins& bins, int* turn,
                                                RowMass& row, const MapKeys& keys, int64_t tiles,
                                                int64_t row_length, double gamma) {
  const MassAndState total = row_mass(team, row, keys);
  const uint64_t rest = rest_of(total.mass, gamma);
  if (rest == 0) return -1;
  const int64_t dropped =
      droppable(team, bins, turn, keys, tiles, share_range(row_length), rest, false);
  return tiles - dropped - 1;
}

// Adds the tiles above the threshold, and the first equal to it, to this CTA's words.
__device__ __forceinline__ void mark_tiles(Team& team, uint32_t* totals, const MapKeys& keys,
                                           const Threshold& threshold, uint32_t* bits) {
  const int lane = threadIdx.x % 32;
  const int share = (keys.words + kWarps - 1) / kWarps;
  const int begin = min(static_cast<int>(threadIdx.x / 32) * share, keys.words);
  const int end = min(begin + share, keys.words);
  uint32_t equal = 0;
  for (int word = begin; word < end; ++word) {
    equal += __popc(__ballot_sync(~0u, keys.key(32 * word + lane) == threshold.key));
  }
  uint32_t all;
  const uint32_t before = team.exclusive_scan(lane == 0 ? equal : 0u, &all);
  if (threadIdx.x == 0) *totals = all;
  team.cluster_sync();
  RankedWord ranked = {0, 0, 0, __shfl_sync(~0u, before, 0) + team.total_before(totals)};
  for (int word = begin; word < end; ++word) {
    const uint32_t key = keys.key(32 * word + lane);
    ranked.above = __ballot_sync(~0u, key > threshold.key);
    ranked.equal = __ballot_sync(~0u, key == threshold.key);
    if (lane == 0) bits[word] |= ranked.kept(threshold.ties);
    ranked.equal_before += __popc(ranked.equal);
  }
}

// Grid: clusters, map heads, batch.
__global__ void __launch_bounds__(kThreads, 1)
    choose_tiles_kernel(const __grid_constant__ EstimateParams params, int first_head) {
  __shared__ SearchBins bins;
  __shared__ TeamShared<kThreads> team_shared;
  __shared__ RowMass row;
  __shared__ uint32_t totals;
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  Team team(team_shared);
  const int head = first_head + static_cast<int>(blockIdx.y);
  if (head >= params.heads.num_q_heads) return;
  const int64_t index = static_cast<int64_t>(blockIdx.z) * params.heads.num_q_heads + head;
  // The same for the whole cluster.
  if (params.scratch.kinds[index] != FlexKind::kQueryAware) return;
  if (params.scratch.every[index] != 0) return;
  const TileGrid grid = head_tokens(params, blockIdx.z, head).grid;
  const int words = static_cast<int>(grid.row_tiles()) * params.words;
  const int share = (words + team.ranks() - 1) / team.ranks();
  const int begin = min(team.rank() * share, words);
  const int64_t map = (static_cast<int64_t>(blockIdx.z) * params.map_heads + blockIdx.y) *
                      params.row_tiles * params.words;
  const MapKeys keys = {params.scratch.map + 32 * (map + begin), min(share, words - begin)};
  int turn = 0;
  const int64_t chosen =
      chosen_tiles(team, bins, &turn, row, keys, 32 * static_cast<int64_t>(words),
                   grid.key_tiles(), mask_threshold(params, head, params.config.gamma));
  uint32_t* bits = mask_bits(params, blockIdx.z, head) + begin;
  if (chosen < 0) {
    for (int word = threadIdx.x; word < keys.words; word += kThreads) {
      bits[word] = tiles_below(grid.end((begin + word) / params.words),
                               (begin + word) % params.words);
    }
  } else if (chosen > 0) {
    const Threshold threshold =
        find_threshold(team, bins, &turn, keys, chosen, whole_range(), false);
    mark_tiles(team, &totals, keys, threshold, bits);
  }
  team.cluster_sync();  // nobody leaves while a neighbour may read its shared memory
}

}  // namespace

cudaError_t choose_tiles(const EstimateParams& params, int first, cudaStream_t stream) {
  LaunchShape shape;
  const int64_t words = static_cast<int64_t>(params.row_tiles) * params.words;
  shape.cluster = cluster_for(words, kWordsPerCta);
  shape.grid = dim3(shape.cluster, params.map_heads, params.sequences.batch);
  shape.threads = kThreads;
  return launch(choose_tiles_kernel, shape, stream, params, first);
}

}  // namespace tokensieve::cuda
