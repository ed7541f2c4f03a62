// One sequence of a batch and its kept tokens.
#pragma once

#include "cuda/params.h"

namespace tokensieve::cuda {

struct Sequence {
  int seqlen_q;
  int seqlen_kv;
  int q_row;   // first row in the q, out (seq axis)
  int kv_row;  // first row in k, v
  int axis;    // index on the batch axis
};

__device__ __forceinline__ Sequence sequence(const Sequences& all, int batch) {
  if (all.cu_seqlens_q == nullptr) return {all.seqlen_q, all.seqlen_kv, 0, 0, batch};
  const int q = all.cu_seqlens_q[batch];
  const int kv = all.cu_seqlens_kv[batch];
  return {all.cu_seqlens_q[batch + 1] - q, all.cu_seqlens_kv[batch + 1] - kv, q, kv, 0};
}

// Tokens of a sequence after its prefix.
__device__ __forceinline__ int suffix_of(int suffix, const Sequence& where) {
  return suffix == kChunkSuffix ? where.seqlen_q : suffix;
}

// Whether a sequence of these lengths can run sparse at all: packed ones may be too short.
template <typename Params>  // SelectParams, GivenParams
__device__ __forceinline__ bool selects(const Params& params, const Sequence& where) {
  return where.seqlen_q >= params.min_queries &&
         !(params.whole_only && where.seqlen_q < where.seqlen_kv);
}

// The set of one (batch, q head).
struct TokenSet {
  const int* indices;
  const uint32_t* mask;
  const uint32_t* rank;

  // Kept tokens before `token`, which must be a multiple of 32.
  __device__ __forceinline__ int rank_of_word(int token) const { return rank[token / 32]; }

  // Kept tokens before `token`, < seqlen_kv.
  __device__ __forceinline__ int rank_of(int token) const {
    const uint32_t below = (1u << (token % 32)) - 1;
    return rank[token / 32] + __popc(mask[token / 32] & below);
  }
};

__device__ __forceinline__ TokenSet token_set(const Selection& selection, int batch, int head,
                                              int num_q_heads) {
  const int set = head * selection.num_sets / num_q_heads;
  const int64_t row = static_cast<int64_t>(batch) * selection.num_sets + set;
  return {selection.indices + row * selection.capacity, selection.mask + row * selection.words,
          selection.rank + row * selection.words};
}

}  // namespace tokensieve::cuda
