/* C ABI of tokensieve: block masks, the calls of blocks.h. The conventions are those of
 * tokensieve_c.h.
 *
 *   tokensieve_blocks blocks;     tokensieve_blocks_init(&blocks);
 *   blocks.pattern = TOKENSIEVE_BLOCKS_FLEX;
 *   tokensieve_make_plan_with_blocks(&shape, &select, &blocks, NULL, &plan, &status);
 *   tokensieve_run(plan, &inputs, &outputs, workspace, workspace_bytes, NULL, &status); */
#ifndef TOKENSIEVE_BLOCKS_C_H_
#define TOKENSIEVE_BLOCKS_C_H_

#include "tokensieve/tokensieve_c.h"

#ifdef __cplusplus
extern "C" {
#endif

enum tokensieve_block_pattern {
  TOKENSIEVE_BLOCKS_NONE = 0,
  TOKENSIEVE_BLOCKS_GIVEN = 1,       /* inputs->block_mask */
  TOKENSIEVE_BLOCKS_SCORES = 2,      /* inputs->block_scores > threshold */
  TOKENSIEVE_BLOCKS_FLEX = 3,        /* FlexPrefill: lines or query-aware tiles, by gamma */
  TOKENSIEVE_BLOCKS_POOLED = 4,      /* FlashPrefill: queries against mean keys, by alpha */
  TOKENSIEVE_BLOCKS_ANTIDIAGONAL = 5, /* XAttention: antidiagonal sums, by threshold */
  TOKENSIEVE_BLOCKS_VERTICAL_SLASH = 6 /* MInference: columns and distances, by count */
};

/* Which 128 x 128 tiles of (query, key) pairs a call computes; see blocks.h. */
typedef struct tokensieve_blocks {
  uint32_t struct_size;
  int32_t pattern;      /* enum tokensieve_block_pattern; default none */
  int32_t share;        /* enum tokensieve_share: of given, scores and pooled; default head */
  int32_t stride;       /* antidiagonal: 8, 16 or 32; default 16 */
  double gamma;         /* flex: [0, 1]; default 0.9 */
  double flex_tau;      /* flex: [0, 2]; default 0.1 */
  double threshold;     /* antidiagonal, scores: [0, 1]; default 0.9 */
  double alpha;         /* pooled: [0, 1]; default 0.1 */
  int64_t min_budget;   /* flex: tokens; default 1024 */
  int64_t max_budget;   /* flex: tokens; 0 (default): no limit */
  int64_t dense_rows;   /* newest rows whose tiles are all visited; default 0 */
  int32_t sink_tiles;   /* pooled; default 2 */
  int32_t window_tiles; /* pooled: >= 1; default 4 */
  int32_t last_tiles;   /* pooled: newest row tiles, which visit every key tile; default 2 */
  int32_t reserved;     /* 0 */
  int64_t verticals;    /* vertical_slash: columns of a head; default 1000 */
  int64_t slashes;      /* vertical_slash: distances of a head; default 6096 */
  double slash_ratio;   /* vertical_slash: [0, 1]: that share of the length for both, 1 : 4, instead
                           of the counts; 0 (default): the counts */
} tokensieve_blocks;

/* Bits of tiles, in the caller's memory: bit c % 32 of word c / 32 of a row tile is set where key
 * tile c is visited. Row tile 0 begins with the first row that is attended, key tile 0 with the
 * first (kept) token. Bits of tiles without a visible pair do not count. */
typedef struct tokensieve_block_mask {
  uint32_t struct_size;
  int32_t num_masks; /* as the plan's info, like row_tiles and words */
  uint32_t* bits;    /* u32 [batch, num_masks, row_tiles, words] */
  int64_t row_tiles;
  int64_t words;
} tokensieve_block_mask;

TOKENSIEVE_INIT(blocks)
TOKENSIEVE_INIT(block_mask)

/* tokensieve_make_plan with block masks: over all tokens (select->enabled 0) or over the selected
 * ones. blocks may be NULL (none). What a mask must hold is in tokensieve_plan_info. */
TOKENSIEVE_API int32_t tokensieve_make_plan_with_blocks(
    const tokensieve_shape* shape, const tokensieve_select* select,
    const tokensieve_blocks* blocks, const tokensieve_options* options, tokensieve_plan** plan,
    tokensieve_status* status);

/* Writes every bit of the mask that a run of these inputs would estimate (or take from
 * block_scores); inputs->v is not read. A plan that selects tokens needs inputs->keep. Codes:
 * INVALID_ARGUMENT (also a plan that estimates none), UNSUPPORTED (packed plans), CANCELLED. */
TOKENSIEVE_API int32_t tokensieve_estimate_blocks(const tokensieve_plan* plan,
                                                  const tokensieve_inputs* inputs,
                                                  const tokensieve_block_mask* mask,
                                                  void* workspace, size_t workspace_bytes,
                                                  const tokensieve_run_options* options,
                                                  tokensieve_status* status);

#ifdef __cplusplus
}
#endif

#endif /* TOKENSIEVE_BLOCKS_C_H_ */
