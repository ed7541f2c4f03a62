// The rows and keys that a head's tiles are made of: all tokens, or the kept ones in compact
// coordinates.
#pragma once

#include "core/tiles.h"
#include "cuda/blocks/params.h"
#include "cuda/device/rows.h"
#include "cuda/device/sequence.h"

namespace tokensieve::cuda {

struct HeadTokens {
  TileGrid grid;
  Sequence where;
  const int32_t* indices;  // token of a row; null: the row itself
  int batch;
  int head;

  // Row on q's seq axis.
  __device__ __forceinline__ int64_t q_row(int64_t row) const {
    const int64_t token = indices != nullptr ? indices[row] : row;
    return token - (where.seqlen_kv - where.seqlen_q) + where.q_row;
  }
};

__device__ __forceinline__ HeadTokens head_tokens(const EstimateParams& params, int batch,
                                                  int head) {
  HeadTokens tokens;
  tokens.where = sequence(params.sequences, batch);
  tokens.indices = nullptr;
  tokens.batch = batch;
  tokens.head = head;
  const int keys = tokens.where.seqlen_kv;
  const int first = keys - tokens.where.seqlen_q;
  tokens.grid = {first, keys};
  if (params.selection.indices == nullptr) return tokens;
  const int count = params.selection.count[batch];
  if (count == keys) return tokens;
  const TokenSet set = token_set(params.selection, batch, head, params.heads.num_q_heads);
  tokens.indices = set.indices;
  tokens.grid = {first > 0 ? set.rank_of(first) : 0, count};
  return tokens;
}

// Row of a [batch, num_q_heads] array.
__device__ __forceinline__ int64_t head_index(const EstimateParams& params, int batch, int head) {
  return static_cast<int64_t>(batch) * params.heads.num_q_heads + head;
}

// Rows of 16-bit elements, `stride` bytes apart.
struct RowSource {
  const char* first;
  int64_t stride;
  __device__ __forceinline__ const char* at(int64_t row) const { return first + row * stride; }
};

__device__ __forceinline__ RowSource row_source(const Tensor& x, int batch, int head, int row) {
  constexpr int kElementBytes = 2;
  return {static_cast<const char*>(x.data) + kElementBytes * row_offset(x, batch, head, row),
          kElementBytes * x.seq_stride};
}

// q of a head, by HeadTokens::q_row.
__device__ __forceinline__ RowSource q_source(const EstimateParams& params,
                                              const HeadTokens& tokens) {
  return row_source(params.q, tokens.where.axis, tokens.head, 0);
}

// The head of key_means, and of compact K, that a query head reads.
__device__ __forceinline__ int key_head(const EstimateParams& params, const HeadTokens& tokens) {
  return tokens.head *
         (tokens.indices != nullptr ? params.compact_heads : params.heads.num_kv_heads) /
         params.heads.num_q_heads;
}

__device__ __forceinline__ RowSource key_source(const EstimateParams& params,
                                                const HeadTokens& tokens) {
  const int head = key_head(params, tokens);
  return tokens.indices != nullptr
             ? row_source(params.compact_k, tokens.batch, head, 0)
             : row_source(params.k, tokens.where.axis, head, tokens.where.kv_row);
}

__device__ __forceinline__ RowSource key_means(const EstimateParams& params,
                                               const HeadTokens& tokens, int head_dim) {
  const int64_t row = (static_cast<int64_t>(tokens.batch) * params.mean_heads +
                       key_head(params, tokens)) *
                      params.key_tiles;
  return {static_cast<const char*>(params.scratch.key_means) + row * head_dim * 2, head_dim * 2};
}

__device__ __forceinline__ double mask_threshold(const EstimateParams& params, int mask,
                                                 double common) {
  return params.thresholds != nullptr ? static_cast<double>(params.thresholds[mask]) : common;
}

// [row_tiles, words] of a mask.
__device__ __forceinline__ uint32_t* mask_bits(const EstimateParams& params, int batch, int mask) {
  return params.bits + (static_cast<int64_t>(batch) * params.num_masks + mask) *
                           params.row_tiles * params.words;
}

}  // namespace tokensieve::cuda
