// The memory plan of a run: what the stages hold in the caller's workspace, and where.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"
#include "tokensieve/attention.h"

namespace tokensieve::cpu {

class Arena;
struct TileBlocks;

// Of one row tile of a thread's task: two tiles that share S, and their rows' limits.
struct ThreadScratch {
  Tile tile;  // of the task's query rows
  Tile kept;  // local fill: its kept rows, carried from the local to the compact pass
  int32_t* row_end;
  int32_t* kept_row_end;
  int32_t* kept_rows;  // query row of each kept row
};

// Buffers of the three phases; the phases follow one another and share memory.
struct ScoreBuffers {
  float* qt;          // [units][dim][cols]
  float* e;           // [units][unit_keys][cols]
  float* m;           // [units][blocks][cols]
  float* l;           // [units][blocks][cols], then the weights
  float* slash;       // [units][blocks][kBlockKeys + cols]; of take_probe only
  int64_t units;      // (query head, cols queries) pairs at once
  int64_t unit_keys;  // seqlen_kv, padded to whole panels
};
struct SelectBuffers {
  float* pooled;   // [layer_heads][prefix_len]
  double* mean;    // [prefix_len]
  float* scratch;  // [threads][prefix_len]
};
struct PanelBuffers {
  std::byte* identity;  // [groups][packed_bytes]: all keys; dense and local
  std::byte* compact;   // [groups][packed_bytes]: kept keys
  float* columns;       // [groups][group_size][padded columns][dim] x 2; kVerticalSlash
  int64_t identity_keys;
  int64_t compact_keys;
  int64_t column_keys;
  int64_t groups;
};
// kVerticalSlash: the columns of every query head, ascending.
struct ColumnLists {
  int32_t* lists;  // [num_q_heads][capacity]
  int32_t* count;  // [num_q_heads]
  int64_t capacity;
};

struct Layout {
  std::byte* threads;  // [threads][row_tiles]
  int64_t row_tiles;   // of a task
  std::byte* tiles;    // [threads]: scratch of the tile kernels
  float* token_score;  // [layer_heads][prefix_len] of one sequence
  float* own_score;    // its rows of this rank: [num_q_heads][prefix_len]
  int32_t* indices;    // [num_sets][keep_capacity] of one sequence
  int32_t* spans;      // [num_sets][blocks + 1] of one sequence: local fill's task boundaries
  uint32_t* mask;      // [num_masks][row_tiles][mask_words] of one sequence
  uint32_t* failed;    // [num_masks]: NaN or inf came up in its estimate
  ColumnLists columns;  // of one sequence
  int64_t keep_capacity;
  ScoreBuffers score;
  SelectBuffers select;
  std::byte* estimate;  // of an estimator (estimate.h)
  PanelBuffers panels;
  size_t bytes;
};

// The form of a plan's packed keys in matrix tiles, without memory.
TileBlocks tile_blocks(const Plan& plan);
// Of a group's packed keys: panels of K^T, then those of V, or blocks of matrix tiles.
int64_t packed_bytes(const Plan& plan, int64_t keys);

int64_t num_blocks(const Plan& plan);  // 64-row blocks of the sequence
// Room for `queries` newest rows of as many heads as fit, at least for one block of rows.
ScoreBuffers take_score(Arena& arena, const Plan& plan, int cols, int64_t queries);
// The same with sums along diagonals.
ScoreBuffers take_probe(Arena& arena, const Plan& plan, int cols, int64_t queries);

// With a null base only the number of bytes is meant.
Layout make_layout(const Plan& plan, const Kernels& kernels, std::byte* base);
// Of a thread's row tile `i`.
ThreadScratch thread_scratch(const Layout& layout, int head_dim, int thread, int i = 0);

}  // namespace tokensieve::cpu
