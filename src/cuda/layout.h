// The workspace of a CUDA plan: one arena, cut into regions.
//
//   count, tile counters | block masks | indices, mask, rank | far pairs, lse of the local pass |
//   compact K, V
//
// What score and select work on is dead before compact writes, so it lies inside compact K and V.
#pragma once

#include <cstddef>
#include <span>

#include "cuda/blocks/params.h"
#include "cuda/params.h"
#include "tokensieve/attention.h"

namespace tokensieve::cuda {

inline constexpr size_t kArenaAlignment = 1024;

struct Layout {
  size_t bytes = 0;  // of the arena, kArenaAlignment for the caller's alignment included
  int32_t capacity = 0;       // rows of a set's indices and compact K, V: a multiple of kTileKv
  int32_t words = 0;          // of mask and rank
  int32_t compact_heads = 0;
  int32_t splits = 0;         // key ranges of score
  int64_t prefix_stride = 0;  // tokens of a score row

  int32_t* tile_counters = nullptr;  // [kTileCounters]
  int32_t* count = nullptr;          // [batch]
  int32_t* cu_seqlens = nullptr;     // [2, batch + 1] packed: of q, of kv; copies for read_report
  uint32_t* block_bits = nullptr;    // [batch, num_masks, row_tiles, mask_words], not of kGiven
  int2* block_visits = nullptr;      // [batch, num_q_heads, row_tiles]
  int32_t* unmasked = nullptr;       // [batch] not 0: NaN or inf in scores, no mask takes part
  EstimateScratch estimate = {};
  int32_t* indices = nullptr;        // [batch, num_sets, capacity]
  uint32_t* mask = nullptr;          // [batch, num_sets, words]
  uint32_t* rank = nullptr;          // [batch, num_sets, words]
  int64_t* far_pairs = nullptr;      // [batch, num_sets] local fill: read_report counts into it
  void* compact_k = nullptr;         // [batch, compact_heads, capacity, head_dim]
  void* compact_v = nullptr;         // [batch, compact_heads, capacity, head_dim]
  float* lse = nullptr;              // [batch, num_q_heads, seqlen_q] local fill
  float* token_score = nullptr;      // [batch, layer_heads, prefix_stride], those of all ranks
  float* mean = nullptr;             // [batch, prefix_stride]
  float* ranked = nullptr;           // [batch, num_sets, prefix_stride]
  float2* split_stats = nullptr;     // [splits, batch, num_q_heads, obs_window]
  void* select_scratch = nullptr;
};

// Pointers are offsets if `arena` is null. The multiprocessors are those of the device that runs.
Layout make_layout(const Plan& plan, int num_multiprocessors, void* arena);
// That of a call; an error if the plan was made for a device that needs less.
Status lay_out(const Plan& plan, int num_multiprocessors, std::span<std::byte> workspace,
               Layout& layout);

inline bool has_blocks(const Plan& plan) { return plan.blocks.pattern != BlockPattern::kNone; }

// Whether a run leaves the lengths of its sequences for read_report.
bool keeps_lengths(const Plan& plan);

// The sets that lie in the workspace.
Selection own_selection(const Plan& plan, const Layout& layout);

// Parts of the parameter structs that follow from the plan alone.
Heads heads_of(const Plan& plan);
Sequences sequences_of(const Plan& plan, const AttentionInputs& inputs);
int32_t suffix_param(const Plan& plan);  // SelectParams::suffix
SelectParams select_params(const Plan& plan);

}  // namespace tokensieve::cuda
