// Second kernel of select: budget, threshold and kept tokens of one set.
//
// A cluster of 1 to 8 CTAs works on a set, each on a range of its tokens. Every cluster
// computes the sequence's budget for itself: cheaper than one more launch.
#include "cuda/device/launch.h"
#include "cuda/ptx/barrier.h"
#include "cuda/select/block_team.h"
#include "cuda/select/scratch.h"
#include "cuda/select/select.h"
#include "cuda/select/steps.h"
#include "cuda/select/words.h"

namespace tokensieve::cuda {
namespace {

constexpr int kSelectThreads = 512;
constexpr int kSelectWarps = kSelectThreads / 32;
constexpr int kTokensPerCta = 8192;  // more CTAs per set only above it
constexpr size_t kMaxSharedBytes = 227 * 1024;
using Team = BlockTeam<kSelectThreads>;

// Start of dynamic shared memory; then above[words], equal[words] and, if it fits, the keys.
struct alignas(16) SelectShared {
  SearchBins bins;
  TeamShared<kSelectThreads> team;
  RowSummary row_parts[kSelectWarps];
  RowSummary mean_parts[kSelectWarps];
  uint32_t totals[2];  // above and equal in this CTA's words
};

struct SelectGrid {
  int words;   // of 32 tokens, per CTA
  int cached;  // keys are kept in shared memory
};

// Keys of this CTA's tokens, 32 a word; those before `begin` and from `end` on are kNoKey.
// Normalised once into shared memory, or made again at each reading.
struct RowKeys {
  const float* row;
  const uint32_t* cache;
  Normaliser normaliser;
  int begin;
  int end;
  int num_words;

  __device__ __forceinline__ uint32_t make(int i) const {
    return i >= begin && i < end ? normaliser.key(row[i]) : kNoKey;
  }
  __device__ __forceinline__ uint32_t key(int i) const {
    return cache != nullptr ? cache[i] : make(i);
  }
  __device__ __forceinline__ int quads() const { return num_words * 8; }
  __device__ __forceinline__ KeyQuad quad(int i) const {
    if (cache == nullptr) return {make(4 * i), make(4 * i + 1), make(4 * i + 2), make(4 * i + 3)};
    const uint4 keys = reinterpret_cast<const uint4*>(cache)[i];
    return {keys.x, keys.y, keys.z, keys.w};
  }
};

// Fills the cache, if there is one.
__device__ __forceinline__ RowKeys load_keys(RowKeys keys, uint32_t* cache) {
  if (cache == nullptr) return keys;
  __syncthreads();  // the last row's readers are done
  // Quads [first, last) are four scores each, the others have keys that do not take part.
  uint4* to = reinterpret_cast<uint4*>(cache);
  const int quads = keys.quads();
  const bool aligned = (reinterpret_cast<uintptr_t>(keys.row) & 15) == 0;
  const int first = aligned ? min((max(keys.begin, 0) + 3) / 4, quads) : quads;
  const int last = max(first, min(keys.end / 4, quads));
#pragma unroll 8
  for (int i = first + static_cast<int>(threadIdx.x); i < last; i += kSelectThreads) {
    const float4 x = reinterpret_cast<const float4*>(keys.row)[i];
    to[i] = {keys.normaliser.key(x.x), keys.normaliser.key(x.y), keys.normaliser.key(x.z),
             keys.normaliser.key(x.w)};
  }
  for (int i = threadIdx.x; i < first; i += kSelectThreads) {
    to[i] = {keys.make(4 * i), keys.make(4 * i + 1), keys.make(4 * i + 2), keys.make(4 * i + 3)};
  }
  for (int i = last + static_cast<int>(threadIdx.x); i < quads; i += kSelectThreads) {
    to[i] = {keys.make(4 * i), keys.make(4 * i + 1), keys.make(4 * i + 2), keys.make(4 * i + 3)};
  }
  __syncthreads();
  keys.cache = cache;
  return keys;
}

__device__ __forceinline__ RowSummary warp_summary(const RowSummary& own, const Team& team) {
  return {team.lane_sum(own.sum), __reduce_min_sync(~0u, own.least),
          __reduce_max_sync(~0u, own.most)};
}

// Merges the summaries of the smooth kernel's CTAs, of a set's row and of the mean, into a part per
// warp. Returns whether the sequence has a NaN or infinite score.
__device__ __forceinline__ bool read_summaries(const Team& team, SelectShared& shared,
                                               const SelectScratch& scratch, int batch, int set) {
  const RowSummary* rows =
      scratch.summaries + static_cast<int64_t>(batch) * scratch.num_rows * scratch.num_chunks;
  RowSummary row = RowSummary::empty();
  RowSummary mean = RowSummary::empty();
  bool bad = false;
  for (int i = threadIdx.x; i < scratch.num_chunks; i += kSelectThreads) {
    row.add(rows[static_cast<int64_t>(set) * scratch.num_chunks + i]);
    mean.add(rows[static_cast<int64_t>(scratch.num_rows - 1) * scratch.num_chunks + i]);
    bad = bad || scratch.nonfinite[batch * scratch.num_chunks + i] != 0;
  }
  row = warp_summary(row, team);
  mean = warp_summary(mean, team);
  if (threadIdx.x % 32 == 0) {
    shared.row_parts[threadIdx.x / 32] = row;
    shared.mean_parts[threadIdx.x / 32] = mean;
  }
  return __syncthreads_or(bad);
}
__device__ __forceinline__ RowSummary merge_parts(const RowSummary* parts) {
  RowSummary all = parts[0];
#pragma unroll
  for (int i = 1; i < kSelectWarps; ++i) all.add(parts[i]);
  return all;
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

// Words [first, last) of a warp; above and equal: of the CTA's words, in shared memory.
struct WarpWords {
  int first, last;
  uint32_t* above;
  uint32_t* equal;
};

struct MarkedCounts {
  uint32_t above;
  uint32_t equal;
};
__device__ __forceinline__ MarkedCounts operator+(const MarkedCounts& a, const MarkedCounts& b) {
  return {a.above + b.above, a.equal + b.equal};
}

// Marks the tokens above and equal to the threshold and counts them over the cluster. Protected and
// newest tokens are above. Returns what comes before this warp's words.
__device__ __forceinline__ RankedWord mark_words(Team& team, SelectShared& shared,
                                                 const RowKeys& keys, const Threshold& threshold,
                                                 const WarpWords& words) {
  const int lane = threadIdx.x % 32;
  uint32_t num_above = 0;
  uint32_t num_equal = 0;
  for (int first = words.first; first < words.last; first += 32) {
    uint32_t own_above = 0;  // of word first + lane
    uint32_t own_equal = 0;
    const int size = min(32, words.last - first);
#pragma unroll 4
    for (int i = 0; i < size; ++i) {
      const uint32_t key = keys.key((first + i) * 32 + lane);
      const uint32_t above = __ballot_sync(~0u, key > threshold.key);
      const uint32_t equal = __ballot_sync(~0u, key == threshold.key);
      if (lane == i) {
        own_above = above;
        own_equal = equal;
      }
    }
    if (lane < size) {
      words.above[first + lane] = own_above;
      words.equal[first + lane] = own_equal;
    }
    num_above += __popc(own_above);
    num_equal += __popc(own_equal);
  }
  num_above = __reduce_add_sync(~0u, num_above);
  num_equal = __reduce_add_sync(~0u, num_equal);
  // Lane 0 stands for its warp.
  MarkedCounts all;
  const MarkedCounts before = team.exclusive_scan(
      lane == 0 ? MarkedCounts{num_above, num_equal} : MarkedCounts{0, 0}, &all);
  if (threadIdx.x == 0) {
    shared.totals[0] = all.above;
    shared.totals[1] = all.equal;
  }
  team.cluster_sync();
  return {0, 0, __shfl_sync(~0u, before.above, 0) + team.total_before(&shared.totals[0]),
          __shfl_sync(~0u, before.equal, 0) + team.total_before(&shared.totals[1])};
}

// Exclusive sum over the lanes; *total: of all.
__device__ __forceinline__ uint32_t lane_scan(uint32_t own, uint32_t* total) {
  uint32_t sum = own;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t before = __shfl_up_sync(~0u, sum, step);
    if (threadIdx.x % 32 >= step) sum += before;
  }
  *total = __shfl_sync(~0u, sum, 31);
  return sum - own;
}

// Mask, rank and indices of this warp's words. A lane ranks one word of 32, then the warp writes
// the tokens word by word.
__device__ __forceinline__ void write_words(const Selection& selection, int64_t set,
                                            const Range& range, RankedWord start, uint32_t ties,
                                            const WarpWords& words, int seqlen_kv) {
  const int lane = threadIdx.x % 32;
  const uint32_t below = (1u << lane) - 1;
  uint32_t* masks = selection.mask + set * selection.words + range.word;
  uint32_t* ranks = selection.rank + set * selection.words + range.word;
  int32_t* indices = selection.indices + set * selection.capacity;
  for (int first = words.first; first < words.last; first += 32) {
    const int size = min(32, words.last - first);
    RankedWord word = {0, 0, 0, 0};
    if (lane < size) {
      const int left = seqlen_kv - (range.token + (first + lane) * 32);
      word.above = words.above[first + lane] & (left < 32 ? (1u << left) - 1 : ~0u);
      word.equal = words.equal[first + lane];
    }
    uint32_t num_above, num_equal;
    word.above_before = start.above_before + lane_scan(__popc(word.above), &num_above);
    word.equal_before = start.equal_before + lane_scan(__popc(word.equal), &num_equal);
    start.above_before += num_above;
    start.equal_before += num_equal;
    const uint32_t kept = word.kept(ties);
    const uint32_t rank = word.rank(ties);
    if (lane < size) {
      masks[first + lane] = kept;
      ranks[first + lane] = rank;
    }
    int token = range.token + first * 32 + lane;
#pragma unroll 4
    for (int i = 0; i < size; ++i, token += 32) {
      const uint32_t mask = __shfl_sync(~0u, kept, i);
      const uint32_t at = __shfl_sync(~0u, rank, i) + __popc(mask & below);
      if (mask >> lane & 1) indices[at] = token;
    }
  }
}

// What a CTA knows about its set.
struct SetWork {
  int batch;
  int set;
  int seqlen_kv;
  int prefix_len;
  bool reference;
  Range range;
  uint32_t* cache;  // of keys, or null
};

// Kept prefix tokens of the sequence; all if it cannot be scored.
__device__ __forceinline__ int64_t kept_tokens(const SelectParams& params, const SetWork& work,
                                               bool scored, Team& team, SelectShared& shared,
                                               int* turn) {
  int64_t keep = max(work.prefix_len, 0);
  if (scored) {
    int64_t dropped = 0;
    if (params.rule.budget == BudgetPolicy::kTau) {
      const RowSummary summary = merge_parts(shared.mean_parts);
      const Normaliser normaliser = normaliser_of(summary, work.reference);
      const float* mean =
          params.mean + static_cast<int64_t>(work.batch) * params.prefix_stride + work.range.token;
      const RowKeys keys = load_keys(
          {mean, nullptr, normaliser, 0, work.range.size, work.range.num_words}, work.cache);
      dropped = droppable_tokens(team, shared.bins, turn, keys, summary, work.prefix_len,
                                 params.tau, work.reference);
    }
    keep = kept_prefix(params.rule, work.prefix_len, dropped);
  }
  return keep;
}

// Indices, mask and rank of the set's `keep` prefix tokens and the newest ones.
__device__ __forceinline__ void write_set(const SelectParams& params, const SetWork& work,
                                          int64_t keep, Team& team, SelectShared& shared,
                                          int* turn, uint32_t* above, uint32_t* equal) {
  const Range& range = work.range;
  const int protect = min(params.rule.protect_first, static_cast<int>(keep));
  const int64_t row = static_cast<int64_t>(work.batch) * params.selection.num_sets + work.set;
  const float* ranked = params.ranked + row * params.prefix_stride + range.token;
  const RowSummary summary = merge_parts(shared.row_parts);
  const Normaliser normaliser = normaliser_of(summary, work.reference && own_sets(params));
  const RowKeys keys = load_keys(
      {ranked, nullptr, normaliser, protect - range.token, range.size, range.num_words},
      work.cache);
  const Threshold threshold = threshold_of(team, shared.bins, turn, keys, summary,
                                           work.prefix_len, keep - protect, work.reference);
  const int words_per_warp = (range.num_words + kSelectWarps - 1) / kSelectWarps;
  const int first = min(static_cast<int>(threadIdx.x / 32) * words_per_warp, range.num_words);
  const WarpWords words = {first, min(first + words_per_warp, range.num_words), above, equal};
  const RankedWord start = mark_words(team, shared, keys, threshold, words);
  write_words(params.selection, row, range, start, threshold.ties, words, work.seqlen_kv);
}

__global__ void __launch_bounds__(kSelectThreads, 1)
    select_kernel(const __grid_constant__ SelectParams params,
                  const __grid_constant__ SelectScratch scratch,
                  const __grid_constant__ SelectGrid grid) {
  extern __shared__ __align__(16) uint8_t raw[];
  SelectShared& shared = *reinterpret_cast<SelectShared*>(raw);
  uint32_t* above = reinterpret_cast<uint32_t*>(raw + sizeof(SelectShared));
  uint32_t* equal = above + grid.words;
  uint32_t* cache = grid.cached ? equal + grid.words : nullptr;  // 16-byte aligned: words % 4 == 0
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  Team team(shared.team);
  const int batch = blockIdx.y;
  const int set = blockIdx.x / team.ranks();
  const Sequence where = sequence(params.sequences, batch);
  const int suffix = suffix_of(params.suffix, where);
  const int prefix_len = where.seqlen_kv - suffix;
  const SetWork work = {batch, set, where.seqlen_kv, prefix_len,
                        params.arithmetic == Arithmetic::kReferenceRounding,
                        own_range(team.rank(), grid.words, where.seqlen_kv, prefix_len), cache};
  int turn = 0;

  const bool scored = !read_summaries(team, shared, scratch, batch, set) && prefix_len > 0 &&
                      selects(params, where);
  const int64_t keep = kept_tokens(params, work, scored, team, shared, &turn);
  const bool dense = runs_dense(params.rule, prefix_len, keep, suffix);
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    const int count = dense ? where.seqlen_kv : static_cast<int>(keep) + suffix;
    params.selection.count[batch] = count;
    if (params.public_count != nullptr) params.public_count[batch] = count;
  }
  if (blockIdx.x == 0 && batch == 0 && params.tile_counters != nullptr &&
      threadIdx.x < kTileCounters) {
    params.tile_counters[threadIdx.x] = 0;
  }
  if (!dense) write_set(params, work, keep, team, shared, &turn, above, equal);
  team.cluster_sync();  // nobody leaves while a neighbour may read its shared memory
}

// CTAs per set: as many as have enough tokens each and surely run at once. One CTA fills a
// multiprocessor and a cluster must find its own inside one GPC, so a quarter may stay idle.
int cluster_size(const SelectParams& params) {
  const int64_t rows = static_cast<int64_t>(params.sequences.batch) * params.selection.num_sets;
  const int64_t fitting = params.num_multiprocessors * 3 / 4 / rows;
  const int64_t useful = (static_cast<int64_t>(params.sequences.seqlen_kv) + kTokensPerCta - 1) /
                         kTokensPerCta;
  const int64_t size = fitting < useful ? fitting : useful;
  return static_cast<int>(size < 1 ? 1 : size > Team::kMaxRanks ? Team::kMaxRanks : size);
}

}  // namespace

size_t select_scratch_bytes(const SelectParams& params) {
  const SelectScratch scratch = select_scratch(params);
  return static_cast<size_t>(params.sequences.batch) * scratch.num_chunks *
         (scratch.num_rows * sizeof(RowSummary) + sizeof(uint32_t));
}

cudaError_t select(const SelectParams& params, cudaStream_t stream) {
  const SelectScratch scratch = select_scratch(params);
  const cudaError_t error = smooth(params, scratch, stream);
  if (error != cudaSuccess) return error;

  LaunchShape shape;
  shape.cluster = cluster_size(params);
  shape.grid = dim3(params.selection.num_sets * shape.cluster, params.sequences.batch);
  shape.threads = kSelectThreads;
  const int words = (params.sequences.seqlen_kv + 31) / 32;
  SelectGrid grid;
  grid.words = ((words + shape.cluster - 1) / shape.cluster + 3) / 4 * 4;
  shape.shared_bytes = sizeof(SelectShared) + 8 * static_cast<size_t>(grid.words);
  const size_t cache_bytes = 128 * static_cast<size_t>(grid.words);
  grid.cached = shape.shared_bytes + cache_bytes <= kMaxSharedBytes;
  if (grid.cached) shape.shared_bytes += cache_bytes;
  return launch(select_kernel, shape, stream, params, scratch, grid);
}

}  // namespace tokensieve::cuda
