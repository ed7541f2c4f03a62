#include "cuda/blocks/plan.h"

#include <algorithm>

#include "core/tiles.h"
#include "tokensieve/names.h"

namespace tokensieve::cuda {
namespace {

constexpr int kWindowRows = 128;  // of a probe, and row groups of an antidiagonal CTA

// Maps of query-aware heads that lie in memory at a time.
constexpr int64_t kMapBytes = int64_t{256} << 20;

int32_t map_heads(const EstimateParams& p) {
  const int64_t head = int64_t{p.sequences.batch} * p.row_tiles * p.words * 32 *
                       static_cast<int64_t>(sizeof(float));
  return static_cast<int32_t>(
      std::clamp<int64_t>(kMapBytes / head, 1, p.heads.num_q_heads));
}

// Key ranges of the probe: several CTAs a multiprocessor.
int32_t probe_splits(const EstimateParams& p, int num_multiprocessors) {
  const int64_t heads = int64_t{p.sequences.batch} * p.heads.num_q_heads;
  return static_cast<int32_t>(
      std::clamp<int64_t>(8 * int64_t{num_multiprocessors} / heads, 1, p.key_tiles));
}

void take_flex(const EstimateParams& p, int64_t head_dim, Arena& arena, EstimateScratch& scratch) {
  const int64_t heads = int64_t{p.sequences.batch} * p.heads.num_q_heads;
  scratch.row_means = arena.take<uint16_t>(heads * p.row_tiles * head_dim);
  scratch.stats = arena.take<float2>(heads * p.splits * kWindowRows);
  scratch.verticals = arena.take<float>(heads * p.key_tiles * kBlock);
  scratch.diagonals = arena.take<float>(heads * p.key_tiles * 2 * kBlock);
  scratch.covers = arena.take<int32_t>(heads * 2);
  scratch.kinds = arena.take<FlexKind>(heads);
  scratch.lines = arena.take<uint32_t>(heads * 2 * p.words);
  scratch.map =
      arena.take<float>(int64_t{p.sequences.batch} * p.map_heads * p.row_tiles * p.words * 32);
}

}  // namespace

EstimateParams estimate_params(const Plan& plan, int num_multiprocessors) {
  const AttentionShape& s = plan.shape;
  EstimateParams p = {};
  p.sequences.batch = static_cast<int32_t>(s.batch);
  p.sequences.seqlen_q = static_cast<int32_t>(s.seqlen_q);
  p.sequences.seqlen_kv = static_cast<int32_t>(s.seqlen_kv);
  p.heads = {s.num_q_heads, s.num_kv_heads};
  p.sm_scale = s.sm_scale;
  p.compact_heads = std::max(plan.num_sets, s.num_kv_heads);
  p.config = plan.blocks;
  p.num_masks = plan.num_masks;
  p.row_tiles = static_cast<int32_t>(plan.row_tiles);
  p.words = static_cast<int32_t>(plan.mask_words);
  p.key_tiles = static_cast<int32_t>(tiles_of(s.seqlen_kv));
  p.mean_heads = plan.path == Path::kSparse ? p.compact_heads : s.num_kv_heads;
  p.splits = probe_splits(p, num_multiprocessors);
  p.map_heads = map_heads(p);
  p.ctas = num_multiprocessors;
  return p;
}

EstimateScratch lay_out_estimate(const Plan& plan, int num_multiprocessors, Arena& arena) {
  const EstimateParams p = estimate_params(plan, num_multiprocessors);
  EstimateScratch scratch = {};
  scratch.every = arena.take<uint32_t>(int64_t{p.sequences.batch} * p.num_masks);
  if (p.config.pattern == BlockPattern::kAntidiagonal) {
    const int64_t rows = int64_t{p.ctas} * kWindowRows;
    scratch.sums = arena.take<float>(rows * p.key_tiles);
    scratch.tops = arena.take<float>(rows * top_stride(p.key_tiles));
    return scratch;
  }
  scratch.key_means = arena.take<uint16_t>(int64_t{p.sequences.batch} * p.mean_heads *
                                           p.key_tiles * plan.shape.head_dim);
  if (p.config.pattern == BlockPattern::kFlex) take_flex(p, plan.shape.head_dim, arena, scratch);
  return scratch;
}

Status check_estimate(const Plan& plan) {
  const BlockPattern pattern = plan.blocks.pattern;
  const bool limited = pattern == BlockPattern::kFlex || pattern == BlockPattern::kPooled;
  if (!limited || tiles_of(plan.shape.seqlen_kv) <= kMaxKeyTiles) return {};
  return Status::error(StatusCode::kUnsupported,
                       "seqlen_kv is %lld with blocks.pattern %s; backend cuda allows %lld tokens; "
                       "use antidiagonal, or backend cpu",
                       (long long)plan.shape.seqlen_kv, name_of(pattern),
                       (long long)(kMaxKeyTiles * kBlock));
}

}  // namespace tokensieve::cuda
