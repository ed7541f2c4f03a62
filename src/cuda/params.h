// What the kernels meet in: one plain struct per kernel, every pointer with its shape.
//
// Tokens of a sequence are numbered from 0 to its seqlen_kv - 1; its queries are the last seqlen_q
// of them (bottom-right causality). All pointers are device memory. Strides count elements.
#pragma once

#include <vector_types.h>

#include <cstdint>

#include "cuda/select/rule.h"
#include "tokensieve/select.h"

namespace tokensieve::cuda {

inline constexpr int kTileKv = 128;  // compact K and V are padded to whole tiles with zero rows

// Lengths: either the same for every sequence, or packed ([1, total, head, dim] tensors).
struct Sequences {
  int32_t batch;
  int32_t seqlen_q;   // of every sequence; packed: the longest
  int32_t seqlen_kv;  // likewise
  int32_t kv_rows;    // of k and v on their seq axis: seqlen_kv at least; packed: all sequences'
  const int32_t* cu_seqlens_q;   // [batch + 1] first query row of each sequence, or null
  const int32_t* cu_seqlens_kv;  // [batch + 1] first key row of each sequence, or null
};

struct Heads {
  int32_t num_q_heads;
  int32_t num_kv_heads;
};

// A [batch, seq, head, dim] tensor of 16-bit elements, dim contiguous.
struct Tensor {
  void* data;
  int64_t batch_stride;
  int64_t seq_stride;
  int64_t head_stride;
};

// softmax(softcap(q k sm_scale)) in base 2: exp(x) = exp2(x log2 e).
struct Softmax {
  float sm_scale;            // > 0
  float softcap;             // logits become softcap * tanh(logit / softcap); 0: off
  const float* sink_mass;  // [num_q_heads] logits of extra softmax mass, or null
};

// Kept tokens of every set: what select leaves for compact, attend and scatter.
// Set of q head h: h * num_sets / num_q_heads.
struct Selection {
  int32_t* indices;  // [batch, num_sets, capacity] ascending kept tokens
  uint32_t* mask;    // [batch, num_sets, words] bit t % 32 of word t / 32: token t is kept
  uint32_t* rank;    // [batch, num_sets, words] kept tokens before token 32 * word
  int32_t* count;    // [batch] kept tokens; seqlen_kv of the sequence: it runs dense and has no
                     // indices, mask or rank
  int32_t num_sets;  // num_q_heads, num_kv_heads or 1
  int32_t capacity;  // a multiple of kTileKv
  int32_t words;     // ceil(seqlen_kv / 32)
};

// Stage score.
struct ScoreParams {
  Sequences sequences;
  Heads heads;
  Softmax softmax;
  Tensor q;            // [batch, seqlen_q, num_q_heads, head_dim]
  Tensor k;            // [batch, kv_rows, num_kv_heads, head_dim]
  int32_t obs_window;  // the last obs_window queries score, <= seqlen_q
  int32_t suffix;      // as in SelectParams
  float* token_score;  // [batch, num_q_heads, prefix_stride] mean attention from the window;
                       // batch entries lie score_batch_stride apart
  int64_t prefix_stride;       // >= longest prefix_len
  int64_t score_batch_stride;  // other ranks' heads lie between
  // [splits, batch, num_q_heads, obs_window] running max and sum of a key range, base 2.
  float2* split_stats;
  int32_t splits;
  // Fewer heads per CTA while there are no more CTAs than this (0: as many heads as fit), which
  // changes no bit.
  int32_t max_ctas;
};

// Stages budget and select. Scores are those of the layer, sets those of this rank: set s ranks the
// mean of heads_per_set heads from first_head + s * heads_per_set on.
struct SelectParams {
  Sequences sequences;
  int32_t layer_heads;
  int32_t first_head;
  int32_t heads_per_set;
  const float* token_score;  // [batch, layer_heads, prefix_stride]
  int64_t prefix_stride;
  int32_t longest_prefix;  // of all sequences
  // Newest tokens that are always kept, or kChunkSuffix; prefix_len = seqlen_kv - suffix.
  int32_t suffix;
  int32_t min_queries;  // sequences with fewer run dense, as do
  int32_t whole_only;   // those with fewer queries than tokens
  // A sequence whose budget keeps more than rule.keep_limit * prefix_len (rounded down) or more
  // than rule.capacity rows runs dense, as does one with a NaN or infinite score.
  BudgetRule rule;
  double tau;
  int32_t pool_width;
  Arithmetic arithmetic;
  float* mean;       // [batch, prefix_stride] mean over layer_heads (tau budget only)
  float* ranked;     // [batch, num_sets, prefix_stride] what select ranks
  void* scratch;     // select_scratch_bytes()
  Selection selection;
  int64_t* public_count;  // [batch] copy of selection.count for KeepSet, or null
  int32_t* tile_counters; // cleared for attend: kTileCounters entries, or null
  int32_t num_multiprocessors;  // of the device
};
inline constexpr int32_t kChunkSuffix = -1;  // all queries of each sequence
inline constexpr int kTileCounters = 8;
inline constexpr int kMaxLayerHeads = 384;  // smoothed tiles of all heads in shared memory

// Sets that the caller gives, in place of score and select.
struct GivenParams {
  Sequences sequences;
  const int32_t* indices;  // [batch, num_sets, capacity] ascending
  const int64_t* count;    // [batch]; the sequence's length: dense
  int64_t capacity;
  // As in SelectParams.
  int32_t suffix;
  int32_t min_queries;
  int32_t whole_only;
  int32_t max_keep;        // prefix tokens of a set of the plan
  Selection selection;     // filled
  int32_t* tile_counters;  // cleared for attend
};

// Stage compact: K and V rows of every set, push order.
struct CompactParams {
  Sequences sequences;
  Selection selection;
  Tensor k, v;                   // [batch, seqlen_kv, num_kv_heads, head_dim]
  Tensor compact_k, compact_v;   // [batch, capacity, compact_heads, head_dim]
  int32_t num_kv_heads;
  int32_t compact_heads;         // num_q_heads (share head) or num_kv_heads (kv, layer)
};

// Which keys a row of attend sees; one kernel instance each.
enum class Keys : int32_t {
  kCausal,   // row r sees rows 0..r: dense, or compact rows among themselves (zero fill)
  kWindow,   // local pass: sinks and the row's own window
  kLimited,  // compact pass of local fill: compact rows before the row's window, merged with the
             // local pass by lse
};

// What local fill shows to every row besides compact rows.
struct Local {
  int32_t window;       // a multiple of 64
  int32_t sink_tokens;  // 0..64 first tokens
};

// Block masks, which steer the passes kCausal and kLimited. Mask of q head h:
// h * num_masks / num_q_heads.
struct Blocks {
  // [batch, num_masks, row_tiles, words] as BlockMask: tiles without a visible pair do not count.
  const uint32_t* bits;
  // [batch, num_q_heads, row_tiles] x: visits of 64 keys each; where they are all that the row tile
  // could have, bits are not read. y: key tiles with a visible pair. Null: no masks.
  int2* visits;
  int32_t num_masks, row_tiles, words;
};

// Stage attend.
struct AttendParams {
  Tensor k, v;                  // [batch, kv_rows, num_kv_heads, head_dim]
  Tensor compact_k, compact_v;  // [batch, selection.capacity, compact_heads, head_dim]
  Sequences sequences;
  Heads heads;
  Softmax softmax;
  Tensor q;    // [batch, seqlen_q, num_q_heads, head_dim]
  Tensor out;  // as q; every row is written
  float* lse;  // [batch, num_q_heads, seqlen_q] natural log (strides below), or null;
               // kLimited needs it: it holds the local pass's
  int64_t lse_batch_stride, lse_head_stride;
  Selection selection;   // indices null: every sequence is dense
  int32_t compact_heads;
  Local local;
  int32_t newest_only;   // each sequence's newest queries that are answered (0: all)
  int32_t* tile_counter; // [1] zero before the launch, zero after it
  int32_t num_ctas;      // persistent grid: multiprocessors of the device
  Blocks blocks;
};

// Scores that the caller gives, to bits.
struct BlockScoreParams {
  const float* scores;      // [batch, num_masks, row_tiles, columns]
  int32_t columns;          // key tiles of seqlen_kv
  double threshold;         // visited tiles score more
  const float* thresholds;  // [num_masks] in its place, or null
  int32_t batch;
  Blocks blocks;
  uint32_t* bits;  // blocks.bits, written: every word
};

// What attend needs besides bits. Runs between select (or given sets) and attend.
struct FinishParams {
  AttendParams attend;      // of the pass that the masks steer; blocks.visits is written
  int32_t dense_rows;       // newest rows, whose row tiles visit everything
  const int32_t* unmasked;  // [batch] nonzero: the sequence takes no mask; or null
  // blocks.bits, where the newest rows' tiles are set, too (for who wants the masks themselves); or
  // null
  uint32_t* marked;
};

}  // namespace tokensieve::cuda
