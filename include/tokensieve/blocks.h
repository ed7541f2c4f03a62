// Block masks: which 128 x 128 tiles of (query, key) pairs an attention call computes, given by the
// caller or estimated from q and k. They compose with token selection: the tiles are then those of
// the compact rows and keys.
//
// Source: FlexPrefill (arXiv 2502.20766), FlashPrefill (2603.06199, 2608.19758), XAttention
// (2503.16428), MInference (2407.02490), and docs/blocks.md, which names what differs from their
// code.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include "tokensieve/select.h"

namespace tokensieve {

// Rows and keys of a tile.
inline constexpr int32_t kBlock = 128;

// Where a layer's block masks come from.
enum class BlockPattern : int32_t {
  kNone = 0,           // no mask: every tile under the diagonal
  kGiven = 1,          // AttentionInputs::block_mask
  kScores = 2,         // AttentionInputs::block_scores > threshold (SeerAttention's road)
  kFlex = 3,           // FlexPrefill: vertical and slash tiles, or query-aware ones, by gamma
  kPooled = 4,         // FlashPrefill: queries against mean keys, by alpha
  kAntidiagonal = 5,   // XAttention: sums along antidiagonals, by threshold
  kVerticalSlash = 6,  // MInference: single columns, and tiles of distances, by count
};

struct BlockConfig {
  BlockPattern pattern = BlockPattern::kNone;

  // Masks per query head, kv head or layer. kFlex, kAntidiagonal, kVerticalSlash: kHead only.
  Share share = Share::kHead;

  // kFlex.
  double gamma = 0.9;         // share of the probe's mass that lines and tiles cover
  double flex_tau = 0.1;      // heads below this divergence take query-aware tiles
  int64_t min_budget = 1024;  // tokens: vertical and slash tiles at least; shorter is all tiles
  int64_t max_budget = 0;     // tokens: at most; 0: no limit

  // kAntidiagonal: share of a row tile's mass. kScores: visited tiles score more.
  double threshold = 0.9;
  int32_t stride = 16;  // kAntidiagonal: tokens of a group: 8, 16 or 32

  // kPooled.
  double alpha = 0.1;        // tiles of at least alpha times the row's best are visited
  int32_t sink_tiles = 2;    // first key tiles, always visited
  int32_t window_tiles = 4;  // newest key tiles of a row tile, always visited
  int32_t last_tiles = 2;    // newest row tiles, which visit every key tile

  int64_t dense_rows = 0;  // newest rows whose tiles are all visited, whatever the pattern

  // kVerticalSlash: a head's columns (also the most that AttentionInputs::block_sizes may give) and
  // distances. slash_ratio > 0: a fifth and four fifths of that share of the (kept) tokens instead.
  // At least 30 and 50, at most as many as there are keys.
  int64_t verticals = 1000;
  int64_t slashes = 6096;
  double slash_ratio = 0.0;
};

// Bits of tiles: bit c % 32 of word c / 32 of a row tile is set where key tile c is visited. Row
// tile 0 begins with the first row that is attended (of a chunk: its first query; with selected
// tokens: its first kept query), key tile 0 with key 0 (the first kept token). Bits of tiles that
// hold no visible pair (above the diagonal, past the end) do not count, whatever they are.
//
// kVerticalSlash: a tile is visited if it holds a pair of one of the head's distances. In tiles
// that are not, a run also visits the head's columns; no bits say so.
struct BlockMask {
  uint32_t* bits = nullptr;  // u32 [batch, num_masks, row_tiles, words]
  int64_t row_tiles = 0;     // plan.row_tiles
  int64_t words = 0;         // plan.mask_words
  int32_t num_masks = 0;     // plan.num_masks: num_q_heads, num_kv_heads or 1
};

// What a field of BlockConfig is called, means and may hold, and which patterns read it.
struct BlockField {
  const char* name;
  const char* help;
  const char* allowed = nullptr;  // null: a word (names.h)
  double least = 0, most = 0;
  uint32_t patterns = ~0u;  // bit BlockPattern; ~0: all, also values that are none
  uint64_t only = 0;        // not 0: bit n is set for every number n that is allowed

  constexpr bool allows(double value) const {
    if (!(value >= least && value <= most)) return false;  // nor NaN
    return only == 0 || (only >> static_cast<int>(value) & 1) != 0;
  }
  constexpr bool used_by(const BlockConfig& c) const {
    const auto pattern = static_cast<uint32_t>(c.pattern);
    return patterns == ~0u || (pattern < 32 && (patterns >> pattern & 1) != 0);
  }
};

// Calls visit(const BlockField&, value&) for every field, in the order in which profiles are
// written.
template <typename Blocks, typename Visit>
  requires std::same_as<std::remove_const_t<Blocks>, BlockConfig>
constexpr void for_each_field(Blocks& c, Visit&& visit) {
  using enum BlockPattern;
  constexpr double kMostTokens = 2147483648.0;
  constexpr double kMostTiles = kMostTokens / kBlock;
  constexpr auto of = [](auto... patterns) {
    return ((1u << static_cast<int>(patterns)) | ...);
  };
  const auto field = [&visit](const BlockField& about, auto& value) { visit(about, value); };

  field({"pattern", "where block masks come from"}, c.pattern);
  field({"share", "whose masks: query heads', kv heads' or the layer's", nullptr, 0, 0,
         of(kGiven, kScores, kPooled)}, c.share);
  field({"gamma", "share of the probe's mass that is covered", "[0, 1]", 0, 1, of(kFlex)},
        c.gamma);
  field({"flex_tau", "heads below this divergence take query-aware tiles", "[0, 2]", 0, 2,
         of(kFlex)}, c.flex_tau);
  field({"min_budget", "tokens that lines cover at least; shorter prompts visit every tile",
         ">= 0, at most 2^31", 0, kMostTokens, of(kFlex)}, c.min_budget);
  field({"max_budget", "tokens that lines cover at most; 0: no limit", ">= 0, at most 2^31", 0,
         kMostTokens, of(kFlex)}, c.max_budget);
  field({"threshold", "share of a row's mass (scores: the least that is not visited)", "[0, 1]",
         0, 1, of(kAntidiagonal, kScores)}, c.threshold);
  field({"stride", "tokens of a group", "8, 16 or 32", 8, 32, of(kAntidiagonal),
         1ull << 8 | 1ull << 16 | 1ull << 32}, c.stride);
  field({"alpha", "visited tiles have this share of the row's best", "[0, 1]", 0, 1,
         of(kPooled)}, c.alpha);
  field({"sink_tiles", "first tiles that every row visits", ">= 0, at most 2^24", 0, kMostTiles,
         of(kPooled)}, c.sink_tiles);
  field({"window_tiles", "newest tiles that every row visits", ">= 1, at most 2^24", 1,
         kMostTiles, of(kPooled)}, c.window_tiles);
  field({"last_tiles", "newest row tiles, which visit every tile", ">= 0, at most 2^24", 0,
         kMostTiles, of(kPooled)}, c.last_tiles);
  field({"dense_rows", "newest rows that visit every tile", ">= 0, at most 2^31", 0, kMostTokens,
         of(kGiven, kScores, kFlex, kPooled, kAntidiagonal, kVerticalSlash)}, c.dense_rows);
  field({"verticals", "columns of a head", ">= 0, at most 2^31", 0, kMostTokens,
         of(kVerticalSlash)}, c.verticals);
  field({"slashes", "distances of a head", ">= 0, at most 2^31", 0, kMostTokens,
         of(kVerticalSlash)}, c.slashes);
  field({"slash_ratio", "share of the length for verticals and slashes, 1 : 4; 0: their counts",
         "[0, 1]", 0, 1, of(kVerticalSlash)}, c.slash_ratio);
}

}  // namespace tokensieve
