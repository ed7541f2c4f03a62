// Sets that the caller gives, instead of score and select: counts, masks, ranks and a copy of the
// indices, which compact and attend read in whole tiles.
//
// A thread takes one word of 32 tokens of a set: it finds the word's first kept token by bisection,
// then reads its tokens. So every index is read and written once, and even indices that do not
// ascend lead to no access outside the set.
#include "cuda/device/launch.h"
#include "cuda/device/sequence.h"
#include "cuda/device/sorted.h"
#include "cuda/ptx/barrier.h"
#include "cuda/rows/rows.h"

namespace tokensieve::cuda {
namespace {

constexpr int kGivenThreads = 256;

// Kept tokens of a sequence; seqlen_kv (dense) for a count that no set of the plan can have.
__device__ __forceinline__ int given_count(const GivenParams& params, const Sequence& where,
                                           int batch) {
  const int64_t count = params.count[batch];
  const int suffix = suffix_of(params.suffix, where);
  const bool valid = count >= suffix && count <= int64_t{params.max_keep} + suffix &&
                     count <= params.capacity && count < where.seqlen_kv &&
                     selects(params, where);
  return valid ? static_cast<int>(count) : where.seqlen_kv;
}

__device__ __forceinline__ void take_word(const Selection& to, int64_t row, const int32_t* from,
                                          int count, int word) {
  const int first = word * 32;
  const int begin = lower_bound(from, count, first);
  uint32_t mask = 0;
  for (int at = begin; at < count && at < begin + 32; ++at) {
    const int token = from[at];
    if (token < first || token >= first + 32) break;
    mask |= 1u << (token - first);
    to.indices[row * to.capacity + at] = token;
  }
  to.mask[row * to.words + word] = mask;
  to.rank[row * to.words + word] = begin;
}

// Grid: words, sets, batch.
__global__ void __launch_bounds__(kGivenThreads)
    given_kernel(const __grid_constant__ GivenParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const int batch = blockIdx.z;
  const int set = blockIdx.y;
  const Sequence where = sequence(params.sequences, batch);
  const int count = given_count(params, where, batch);
  const int word = blockIdx.x * kGivenThreads + threadIdx.x;
  if (word == 0 && set == 0) params.selection.count[batch] = count;
  if (batch == 0 && set == 0 && word < kTileCounters) params.tile_counters[word] = 0;
  if (count == where.seqlen_kv || word * 32 >= where.seqlen_kv) return;
  const int64_t row = static_cast<int64_t>(batch) * params.selection.num_sets + set;
  take_word(params.selection, row, params.indices + row * params.capacity, count, word);
}

}  // namespace

cudaError_t take_given(const GivenParams& params, cudaStream_t stream) {
  return launch(given_kernel,
                {.grid = dim3((params.selection.words + kGivenThreads - 1) / kGivenThreads,
                              params.selection.num_sets, params.sequences.batch),
                 .threads = kGivenThreads},
                stream, params);
}

}  // namespace tokensieve::cuda
