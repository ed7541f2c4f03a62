// Second kernel of select: budget, threshold and kept tokens of one set.
//
// A cluster of 1, 2, 4 or 8 CTAs works on a set, each on a range of its tokens. Every cluster
// computes the sequence's budget for itself: cheaper than one more launch.
#include "cuda/ptx/barrier.h"
#include "cuda/stages/block_team.h"
#include "cuda/common/launch.h"
#include "cuda/stages/select.h"
#include "cuda/stages/stages.h"

namespace tokensieve::cuda {
namespace {

constexpr int kSelectThreads = 1024;
constexpr int kSelectWarps = kSelectThreads / 32;
constexpr int kTokensPerCta = 8192;  // more CTAs per set only above it
constexpr int kMaxCluster = 8;
constexpr size_t kMaxSharedBytes = 227 * 1024;
using Team = BlockTeam<kSelectThreads>;

// Start of dynamic shared memory; then above[words], equal[words] and, if it fits, the keys.
struct SelectShared {
  SearchBins bins;
  TeamShared<kSelectThreads> team;
  uint32_t totals[2];  // above and equal in this CTA's words
};

struct SelectGrid {
  int words;   // of 32 tokens, per CTA
  int cached;  // keys are kept in shared memory
};

// Keys of this CTA's tokens: normalised once into shared memory, or made again at each reading.
struct RowKeys {
  const float* row;
  const uint32_t* cache;
  Normaliser normaliser;

  __device__ __forceinline__ uint32_t operator()(int i) const {
    return cache != nullptr ? cache[i] : normaliser.key(row[i]);
  }
};

__device__ __forceinline__ RowKeys load_keys(const Team& team, const float* row, int size,
                                             const Normaliser& normaliser, uint32_t* cache) {
  if (cache != nullptr) {
    __syncthreads();  // the last row's readers are done
#pragma unroll 8
    for (int i = team.thread(); i < size; i += kSelectThreads) cache[i] = normaliser.key(row[i]);
    __syncthreads();
  }
  return {row, cache, normaliser};
}

// Sum of a row of the smooth kernel's partial sums; all threads get it.
__device__ __forceinline__ uint64_t total_of(Team& team, const uint64_t* sums, int count) {
  BinTotals own = {0, 0};
  for (int i = threadIdx.x; i < count; i += kSelectThreads) own.mass += sums[i];
  BinTotals all;
  team.exclusive_scan(own, &all);
  return all.mass;
}

// The CTA's tokens, as a range of words.
struct Range {
  int word;       // first word
  int num_words;
  int token;      // 32 * word
  int size;       // tokens before prefix_len
};

__device__ __forceinline__ Range own_range(int rank, int words_per_cta, int seqlen_kv,
                                           int prefix_len) {
  const int words = (seqlen_kv + 31) / 32;
  Range range;
  range.word = min(rank * words_per_cta, words);
  range.num_words = min(words - range.word, words_per_cta);
  range.token = range.word * 32;
  range.size = max(0, min(prefix_len - range.token, range.num_words * 32));
  return range;
}

// Marks the words' tokens above and equal to the threshold, and ranks them over the cluster.
// Protected and newest tokens count as above. Returns where this warp's words start.
__device__ __forceinline__ RankedWord mark_words(Team& team, SelectShared& shared,
                                                 const RowKeys& keys, const Range& range,
                                                 int protect, int seqlen_kv,
                                                 const Threshold& threshold, uint32_t* above,
                                                 uint32_t* equal, int first, int last) {
  const int lane = threadIdx.x % 32;
  uint32_t num_above = 0;
  uint32_t num_equal = 0;
#pragma unroll 4
  for (int i = first; i < last; ++i) {
    const int offset = i * 32 + lane;
    const int token = range.token + offset;
    bool is_above = token < protect || (offset >= range.size && token < seqlen_kv);
    bool is_equal = false;
    if (!is_above && offset < range.size) {
      const uint32_t key = keys(offset);
      is_above = key > threshold.key;
      is_equal = key == threshold.key;
    }
    const uint32_t above_word = __ballot_sync(~0u, is_above);
    const uint32_t equal_word = __ballot_sync(~0u, is_equal);
    if (lane == 0) {
      above[i] = above_word;
      equal[i] = equal_word;
    }
    num_above += __popc(above_word);
    num_equal += __popc(equal_word);
  }
  __syncwarp();
  // Lane 0 stands for its warp; both counts in one scan.
  const BinTotals own = {lane == 0 ? num_above : 0, lane == 0 ? num_equal : 0};
  BinTotals all;
  BinTotals before = team.exclusive_scan(own, &all);
  before.count = __shfl_sync(~0u, before.count, 0);
  before.mass = __shfl_sync(~0u, before.mass, 0);
  if (threadIdx.x == 0) {
    shared.totals[0] = all.count;
    shared.totals[1] = static_cast<uint32_t>(all.mass);
  }
  team.cluster_sync();
  RankedWord start = {0, 0, before.count, static_cast<uint32_t>(before.mass)};
  for (int rank = 0; rank < team.rank(); ++rank) {
    start.above_before += team.read(&shared.totals[0], rank);
    start.equal_before += team.read(&shared.totals[1], rank);
  }
  return start;
}

// Mask, rank and indices of this warp's words.
__device__ __forceinline__ void write_words(const Selection& selection, int64_t set,
                                            const Range& range, RankedWord word, uint32_t ties,
                                            const uint32_t* above, const uint32_t* equal,
                                            int first, int last) {
  const int lane = threadIdx.x % 32;
  const uint32_t below = (1u << lane) - 1;
  uint32_t* mask = selection.mask + set * selection.words + range.word;
  uint32_t* ranks = selection.rank + set * selection.words + range.word;
  int32_t* indices = selection.indices + set * selection.capacity;
#pragma unroll 2
  for (int i = first; i < last; ++i) {
    word.above = above[i];
    word.equal = equal[i];
    const uint32_t rank = word.rank(ties);
    const bool kept = word.above >> lane & 1 ||
                      (word.equal >> lane & 1 &&
                       word.equal_before + __popc(word.equal & below) < ties);
    const uint32_t kept_word = __ballot_sync(~0u, kept);
    if (lane == 0) {
      mask[i] = kept_word;
      ranks[i] = rank;
    }
    if (kept) indices[rank + __popc(kept_word & below)] = range.token + i * 32 + lane;
    word.above_before += __popc(word.above);
    word.equal_before += __popc(word.equal);
  }
}

__device__ __forceinline__ BudgetRule budget_rule(const SelectParams& params) {
  return {params.budget,        params.keep_ratio, params.keep_count,        params.min_keep,
          params.protect_first, params.keep_limit, params.selection.capacity};
}

__global__ void __launch_bounds__(kSelectThreads, 1)
    select_kernel(const __grid_constant__ SelectParams params,
                  const __grid_constant__ SelectScratch scratch,
                  const __grid_constant__ SelectGrid grid) {
  extern __shared__ __align__(16) uint8_t raw[];
  SelectShared& shared = *reinterpret_cast<SelectShared*>(raw);
  uint32_t* above = reinterpret_cast<uint32_t*>(raw + sizeof(SelectShared));
  uint32_t* equal = above + grid.words;
  uint32_t* cache = grid.cached ? equal + grid.words : nullptr;
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  Team team(shared.team);
  const int batch = blockIdx.y;
  const int set = blockIdx.x / team.ranks();
  const bool reference = params.arithmetic == kArithmeticReference;
  const BudgetRule rule = budget_rule(params);
  const Sequence where = sequence(params.sequences, batch);
  const int seqlen_kv = where.seqlen_kv;
  const int prefix_len = seqlen_kv - params.suffix;
  const Range range = own_range(team.rank(), grid.words, seqlen_kv, prefix_len);
  const uint64_t* sums = scratch.sums +
                         static_cast<int64_t>(batch) * scratch.num_sums * scratch.num_chunks;
  int turn = 0;

  // A packed sequence may be shorter than what scores, or have fewer queries than that.
  bool bad = prefix_len <= 0 || where.seqlen_q < params.suffix;
  for (int i = threadIdx.x; i < scratch.num_chunks; i += kSelectThreads) {
    bad = bad || scratch.nonfinite[batch * scratch.num_chunks + i] != 0;
  }
  int64_t keep = max(prefix_len, 0);
  if (!__syncthreads_or(bad)) {
    int64_t dropped = 0;
    if (params.budget == kBudgetTau) {
      const uint64_t sum = total_of(
          team, sums + params.selection.num_sets * scratch.num_chunks, scratch.num_chunks);
      const Normaliser normaliser = reference ? Normaliser::of_sum(sum) : Normaliser{false, 1.0f};
      const float* mean =
          params.mean + static_cast<int64_t>(batch) * params.prefix_stride + range.token;
      const RowKeys keys = load_keys(team, mean, range.size, normaliser, cache);
      dropped = droppable(team, shared.bins, &turn, keys, range.size, prefix_len,
                          mass_limit(params.tau, sum, reference), reference);
    }
    keep = kept_prefix(rule, prefix_len, dropped);
  }
  const bool dense = runs_dense(rule, prefix_len, keep, params.suffix);
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    const int count = dense ? seqlen_kv : static_cast<int>(keep) + params.suffix;
    params.selection.count[batch] = count;
    if (params.public_count != nullptr) params.public_count[batch] = count;
  }
  if (blockIdx.x == 0 && batch == 0 && params.tile_counters != nullptr &&
      threadIdx.x < kTileCounters) {
    params.tile_counters[threadIdx.x] = 0;
  }

  if (!dense) {
    const int protect = min(params.protect_first, static_cast<int>(keep));
    const int64_t row = static_cast<int64_t>(batch) * params.selection.num_sets + set;
    const float* ranked = params.ranked + row * params.prefix_stride + range.token;
    const Normaliser normaliser =
        reference && own_sets(params)
            ? Normaliser::of_sum(total_of(team, sums + set * scratch.num_chunks,
                                          scratch.num_chunks))
            : Normaliser{false, 1.0f};
    const RowKeys keys = load_keys(team, ranked, range.size, normaliser, cache);
    Threshold threshold = {0xffffffffu, 0};
    if (keep > protect) {
      const int begin = min(max(protect - range.token, 0), range.size);
      threshold = find_threshold(team, shared.bins, &turn, keys, begin, range.size,
                                 keep - protect, reference);
    }
    const int words_per_warp = (range.num_words + kSelectWarps - 1) / kSelectWarps;
    const int first = min(static_cast<int>(threadIdx.x / 32) * words_per_warp, range.num_words);
    const int last = min(first + words_per_warp, range.num_words);
    const RankedWord start = mark_words(team, shared, keys, range, protect, seqlen_kv, threshold,
                                        above, equal, first, last);
    write_words(params.selection, row, range, start, threshold.ties, above, equal, first, last);
  }
  team.cluster_sync();  // nobody leaves while a neighbour may read its shared memory
}

// CTAs per set: the most that run at once and have enough tokens each.
int cluster_size(const SelectParams& params, int num_multiprocessors) {
  const int64_t rows = static_cast<int64_t>(params.sequences.batch) * params.selection.num_sets;
  int cluster = 1;
  while (cluster < kMaxCluster && rows * cluster * 2 <= num_multiprocessors &&
         params.sequences.seqlen_kv > static_cast<int64_t>(cluster) * kTokensPerCta) {
    cluster *= 2;
  }
  return cluster;
}

}  // namespace

size_t select_scratch_bytes(const SelectParams& params) {
  const SelectScratch scratch = select_scratch(params);
  return static_cast<size_t>(params.sequences.batch) * scratch.num_chunks *
         (scratch.num_sums * sizeof(uint64_t) + sizeof(uint32_t));
}

cudaError_t select(const SelectParams& params, cudaStream_t stream) {
  int device = 0;
  int multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const SelectScratch scratch = select_scratch(params);
  error = smooth(params, scratch, stream);
  if (error != cudaSuccess) return error;

  LaunchShape shape;
  shape.cluster = cluster_size(params, multiprocessors);
  shape.grid = dim3(params.selection.num_sets * shape.cluster, params.sequences.batch);
  shape.threads = kSelectThreads;
  const int words = (params.sequences.seqlen_kv + 31) / 32;
  SelectGrid grid;
  grid.words = (words + shape.cluster - 1) / shape.cluster;
  shape.shared_bytes = sizeof(SelectShared) + 8 * static_cast<size_t>(grid.words);
  const size_t cache_bytes = 128 * static_cast<size_t>(grid.words);
  grid.cached = shape.shared_bytes + cache_bytes <= kMaxSharedBytes;
  if (grid.cached) shape.shared_bytes += cache_bytes;
  return launch(select_kernel, shape, stream, params, scratch, grid);
}

}  // namespace tokensieve::cuda
