// Bits from scores; visits of a mask's row tiles. A warp takes a row tile.
#include "cuda/blocks/finish.h"

#include "cuda/device/launch.h"
#include "cuda/keys/blocks.h"
#include "cuda/keys/causal.h"
#include "cuda/keys/limited.h"
#include "cuda/ptx/barrier.h"

namespace tokensieve::cuda {
namespace {

constexpr int kWarps = 8;

__device__ __forceinline__ int own_row_tile() { return blockIdx.x * kWarps + threadIdx.x / 32; }

// Grid: row tiles, masks, batch.
__global__ void __launch_bounds__(kWarps * 32)
    scores_kernel(const __grid_constant__ BlockScoreParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const Blocks& blocks = params.blocks;
  const int row_tile = own_row_tile();
  if (row_tile >= blocks.row_tiles) return;
  const int lane = threadIdx.x % 32;
  const int mask = blockIdx.y;
  const double threshold =
      params.thresholds != nullptr ? params.thresholds[mask] : params.threshold;
  const int64_t row =
      (static_cast<int64_t>(blockIdx.z) * blocks.num_masks + mask) * blocks.row_tiles + row_tile;
  const float* scores = params.scores + row * params.columns;
  for (int word = 0; word < blocks.words; ++word) {
    const int column = word * 32 + lane;
    const bool visited = column < params.columns && scores[column] > threshold;
    const uint32_t bits = __ballot_sync(~0u, visited);
    if (lane == 0) params.bits[row * blocks.words + word] = bits;
  }
}

// What the last row of a row tile sees.
struct RowTile {
  Tile tile;      // batch, head, row, sparse
  int keys = 0;   // of the sequence or its set
  int last = -1;  // the last row's own position among them; -1: no rows
  int end = 0;    // [0, end) holds what the pass shows of them
};

template <class Visible>
__device__ __forceinline__ RowTile row_tile_of(const AttendParams& params, int batch, int head,
                                               int row_tile) {
  const Sequence where = sequence(params.sequences, batch);
  const Selection& selection = params.selection;
  RowTile found;
  found.keys = selection.indices != nullptr ? selection.count[batch] : where.seqlen_kv;
  found.tile = {.batch = batch, .head = head, .row = row_tile * kBlock};
  found.tile.sparse = found.keys != where.seqlen_kv;
  const TokenSet set = token_set(selection, batch, head, params.heads.num_q_heads);
  const int first_token = where.seqlen_kv - where.seqlen_q;
  const bool ranked = found.tile.sparse && first_token > 0;
  const int first = (ranked ? set.rank_of(first_token) : first_token) + found.tile.row;
  if (first >= found.keys) return found;
  found.last = min(first + kBlock, found.keys) - 1;
  found.end = Visible::tile_keys(params, found.tile, found.tile.sparse, first, found.last).end;
  // The last row sees most; if even it has nothing behind the sinks, none has.
  if (found.end <= Visible::row_keys(params, set, found.tile, found.last).begin) found.end = 0;
  return found;
}

__device__ __forceinline__ int visits_of_row(const uint32_t* row, int end) {
  const int tiles = ceil_div(end, kBlock);
  int visited = 0;
  for (int word = threadIdx.x % 32; word * 32 < tiles; word += 32) {
    visited += __popc(row[word] & tiles_before(tiles - word * 32));
  }
  const int all = static_cast<int>(__reduce_add_sync(~0u, static_cast<unsigned>(visited)));
  return all * (kBlock / kVisitKeys) - visits_first_half(row, end);
}

__device__ __forceinline__ void mark_row(uint32_t* row, int end) {
  const int tiles = ceil_div(end, kBlock);
  for (int word = threadIdx.x % 32; word * 32 < tiles; word += 32) {
    row[word] |= tiles_before(tiles - word * 32);
  }
}

// Grid: row tiles, query heads, batch.
template <class Visible>
__global__ void __launch_bounds__(kWarps * 32)
    finish_kernel(const __grid_constant__ FinishParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const AttendParams& attend = params.attend;
  if (own_row_tile() >= attend.blocks.row_tiles) return;
  const int head = blockIdx.y;
  const int batch = blockIdx.z;
  const RowTile rows = row_tile_of<Visible>(attend, batch, head, own_row_tile());
  const bool everything = rows.last >= rows.keys - params.dense_rows ||
                          (params.unmasked != nullptr && params.unmasked[batch] != 0);
  const uint32_t* row = mask_row(attend, rows.tile);
  const int visits =
      everything ? ceil_div(rows.end, kVisitKeys) : visits_of_row(row, rows.end);
  if (threadIdx.x % 32 == 0) {
    attend.blocks.visits[row_tile_index(attend, rows.tile)] = {visits,
                                                               ceil_div(rows.end, kBlock)};
  }
  const bool first_of_mask =
      head % (attend.heads.num_q_heads / attend.blocks.num_masks) == 0;
  if (params.marked != nullptr && everything && first_of_mask) {
    mark_row(params.marked + (row - attend.blocks.bits), rows.last + 1);
  }
}

}  // namespace

cudaError_t take_scores(const BlockScoreParams& params, cudaStream_t stream) {
  return launch(scores_kernel,
                {.grid = dim3(ceil_div(params.blocks.row_tiles, kWarps), params.blocks.num_masks,
                              params.batch),
                 .threads = kWarps * 32},
                stream, params);
}

cudaError_t finish_masks(const FinishParams& params, Keys keys, cudaStream_t stream) {
  const AttendParams& attend = params.attend;
  const LaunchShape shape = {.grid = dim3(ceil_div(attend.blocks.row_tiles, kWarps),
                                          attend.heads.num_q_heads, attend.sequences.batch),
                             .threads = kWarps * 32};
  return keys == Keys::kLimited ? launch(finish_kernel<LimitedKeys>, shape, stream, params)
                                : launch(finish_kernel<CausalKeys>, shape, stream, params);
}

}  // namespace tokensieve::cuda
