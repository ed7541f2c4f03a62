#include "cuda/call.h"

#include <algorithm>
#include <limits>

#include "core/plan.h"
#include "core/tiles.h"
#include "cuda/blocks/estimate.h"
#include "cuda/blocks/finish.h"
#include "cuda/blocks/plan.h"
#include "cuda/rows/rows.h"

namespace tokensieve::cuda {

Tensor tensor_of(const TensorView& view) {
  return {view.data, view.strides[0], view.strides[1], view.strides[2]};
}

Status Call::score() {
  const AttentionShape& s = plan_.shape;
  const ScoreParams params = {.sequences = sequences(),
                              .heads = heads_of(plan_),
                              .softmax = softmax(),
                              .q = tensor_of(in_.q),
                              .k = tensor_of(in_.k),
                              .obs_window = plan_.select.obs_window,
                              .suffix = suffix_param(plan_),
                              .token_score = own_scores(),
                              .prefix_stride = layout_.prefix_stride,
                              .score_batch_stride = layer_heads(plan_) * layout_.prefix_stride,
                              .split_stats = layout_.split_stats,
                              .splits = layout_.splits,
                              .max_ctas =
                                  plan_.options.num_ranks > 1 ? device_.num_multiprocessors : 0};
  return device_.arch->score(params, element(), s.head_dim, stream_);
}

float* Call::own_scores() const {
  return layout_.token_score + first_head(plan_) * layout_.prefix_stride;
}

Status Call::gather_scores(const RunOptions& options) {
  if (plan_.options.num_ranks == 1) return {};
  const int64_t bytes = plan_.shape.num_q_heads * layout_.prefix_stride * int64_t{sizeof(float)};
  for (int64_t b = 0; b < plan_.shape.batch; ++b) {
    float* scores = layout_.token_score + b * layer_heads(plan_) * layout_.prefix_stride;
    if (!options.all_gather(options.gather_context, scores, static_cast<size_t>(bytes),
                            options.stream)) {
      return Status::error(StatusCode::kInternal, "all_gather failed: it returned an error");
    }
  }
  return {};
}

Status Call::take_given(const Selection& selection) {
  const SelectParams rule = select_params(plan_);
  const GivenParams params = {.sequences = sequences(),
                              .indices = in_.keep.indices,
                              .count = in_.keep.count,
                              .capacity = in_.keep.capacity,
                              .suffix = rule.suffix,
                              .min_queries = rule.min_queries,
                              .whole_only = rule.whole_only,
                              .max_keep = static_cast<int32_t>(plan_.max_keep),
                              .selection = selection,
                              .tile_counters = layout_.tile_counters};
  TOKENSIEVE_RETURN_IF_ERROR(launched("given sets", cuda::take_given(params, stream_)));
  if (!estimates(plan_)) return {};
  return launched("memset", cudaMemsetAsync(layout_.unmasked, 0,
                                            static_cast<size_t>(plan_.shape.batch) *
                                                sizeof(int32_t),
                                            stream_));
}

Status Call::select(const Selection& selection, int64_t* public_count) {
  SelectParams params = select_params(plan_);
  params.sequences = sequences();
  params.token_score = layout_.token_score;
  params.prefix_stride = layout_.prefix_stride;
  params.mean = layout_.mean;
  params.ranked = layout_.ranked;
  params.scratch = layout_.select_scratch;
  params.selection = selection;
  params.rule.capacity = selection.capacity;
  params.num_multiprocessors = device_.num_multiprocessors;
  params.public_count = public_count;
  params.tile_counters = layout_.tile_counters;
  TOKENSIEVE_RETURN_IF_ERROR(launched("select", device_.arch->select(params, stream_)));
  if (!estimates(plan_)) return {};
  return launched("select", find_unmasked(params, layout_.unmasked, stream_));
}

Status Call::compact(const Selection& selection) {
  const CompactParams params = {.sequences = sequences(),
                                .selection = selection,
                                .k = tensor_of(in_.k),
                                .v = tensor_of(in_.v),
                                .compact_k = compacted(layout_.compact_k),
                                .compact_v = compacted(layout_.compact_v),
                                .num_kv_heads = plan_.shape.num_kv_heads,
                                .compact_heads = layout_.compact_heads};
  return launched("compact", compact_kv(params, element(), plan_.shape.head_dim, stream_));
}

Status Call::masks(const Selection& selection) {
  const BlockConfig& c = plan_.blocks;
  if (c.pattern == BlockPattern::kNone) return {};
  if (c.pattern == BlockPattern::kScores) {
    const BlockScoreParams params = {.scores = in_.block_scores,
                                     .columns =
                                         static_cast<int32_t>(tiles_of(plan_.shape.seqlen_kv)),
                                     .threshold = c.threshold,
                                     .thresholds = in_.block_thresholds,
                                     .batch = static_cast<int32_t>(plan_.shape.batch),
                                     .blocks = blocks(),
                                     .bits = layout_.block_bits};
    TOKENSIEVE_RETURN_IF_ERROR(launched("block scores", take_scores(params, stream_)));
  }
  if (estimates(plan_)) TOKENSIEVE_RETURN_IF_ERROR(estimate(selection));
  const bool limited = plan_.path == Path::kSparse && plan_.select.fill == Fill::kLocal;
  const FinishParams params = {.attend = attend_params({}, selection),
                               .dense_rows = static_cast<int32_t>(std::min<int64_t>(
                                   c.dense_rows, std::numeric_limits<int32_t>::max())),
                               .unmasked =
                                   plan_.path == Path::kSparse ? layout_.unmasked : nullptr,
                               .marked = layout_.block_bits};
  return launched("block masks", finish_masks(params, limited ? Keys::kLimited : Keys::kCausal,
                                              stream_));
}

Status Call::estimate(const Selection& selection) {
  EstimateParams params = estimate_params(plan_, device_.num_multiprocessors);
  params.sequences = sequences();
  params.selection = selection;
  params.q = tensor_of(in_.q);
  params.k = tensor_of(in_.k);
  params.compact_k = compacted(layout_.compact_k);
  params.thresholds = in_.block_thresholds;
  params.bits = layout_.block_bits;
  params.scratch = layout_.estimate;
  return device_.arch->estimate(params, element(), plan_.shape.head_dim, stream_);
}

Status Call::no_masks() {
  if (!has_blocks(plan_)) return {};
  const int64_t rows = plan_.shape.batch * plan_.shape.num_q_heads * plan_.row_tiles;
  return launched("memset", cudaMemsetAsync(layout_.block_visits, 0,
                                            static_cast<size_t>(rows) * sizeof(int2), stream_));
}

Status Call::attend(const AttentionOutputs& out, const Selection& selection) {
  AttendParams params = attend_params(out, selection);
  if (plan_.select.queries == Queries::kAll) {
    // The chunk against the kept past; then its newest rows against everything.
    TOKENSIEVE_RETURN_IF_ERROR(attend_pass(params, Keys::kCausal, kFirstPass));
    params.selection = {};
    params.newest_only = plan_.select.obs_window;
    return attend_pass(params, Keys::kCausal, kSecondPass);
  }
  if (plan_.select.fill == Fill::kZero) return attend_pass(params, Keys::kCausal, kFirstPass);
  if (params.lse == nullptr) params.lse = layout_.lse;
  TOKENSIEVE_RETURN_IF_ERROR(attend_pass(params, Keys::kWindow, kFirstPass));
  return attend_pass(params, Keys::kLimited, kSecondPass);
}

Status Call::attend_dense(const AttentionOutputs& out) {
  TOKENSIEVE_RETURN_IF_ERROR(
      launched("memset", cudaMemsetAsync(layout_.tile_counters, 0,
                                         kTileCounters * sizeof(int32_t), stream_)));
  AttendParams params = attend_params(out, {});
  return attend_pass(params, Keys::kCausal, kFirstPass);
}

Status Call::keep_lengths() {
  if (!keeps_lengths(plan_)) return {};
  const int64_t entries = plan_.shape.batch + 1;
  const auto keep = [&](const int32_t* from, int32_t* to) {
    return launched("copy of cu_seqlens",
                    cudaMemcpyAsync(to, from, static_cast<size_t>(entries) * sizeof(int32_t),
                                    cudaMemcpyDeviceToDevice, stream_));
  };
  TOKENSIEVE_RETURN_IF_ERROR(keep(in_.cu_seqlens_q, layout_.cu_seqlens));
  return keep(in_.cu_seqlens_kv, layout_.cu_seqlens + entries);
}

// [batch, capacity, compact_heads, head_dim], the rows of a head adjacent.
Tensor Call::compacted(void* data) const {
  const int64_t dim = plan_.shape.head_dim;
  const int64_t head_stride = layout_.capacity * dim;
  return {data, layout_.compact_heads * head_stride, dim, head_stride};
}

Blocks Call::blocks() const {
  const bool given = plan_.blocks.pattern == BlockPattern::kGiven;
  return {.bits = given ? in_.block_mask.bits : layout_.block_bits,
          .visits = layout_.block_visits,
          .num_masks = plan_.num_masks,
          .row_tiles = static_cast<int32_t>(plan_.row_tiles),
          .words = static_cast<int32_t>(plan_.mask_words)};
}

AttendParams Call::attend_params(const AttentionOutputs& out, const Selection& selection) const {
  const int64_t seqlen_q = in_.q.shape[1];
  return {.k = tensor_of(in_.k),
          .v = tensor_of(in_.v),
          .compact_k = compacted(layout_.compact_k),
          .compact_v = compacted(layout_.compact_v),
          .sequences = sequences(),
          .heads = heads_of(plan_),
          .softmax = softmax(),
          .q = tensor_of(in_.q),
          .out = tensor_of(out.out),
          .lse = out.lse,
          .lse_batch_stride = plan_.shape.num_q_heads * seqlen_q,
          .lse_head_stride = seqlen_q,
          .selection = selection,
          .compact_heads = layout_.compact_heads,
          .local = {.window = plan_.select.local_window, .sink_tokens = plan_.select.sinks},
          .num_ctas = device_.num_multiprocessors,
          .blocks = blocks()};
}

Status Call::attend_pass(AttendParams& params, Keys keys, TileCounter counter) {
  params.tile_counter = layout_.tile_counters + counter;
  return device_.arch->attend(params, keys, element(), plan_.shape.head_dim, stream_);
}

}  // namespace tokensieve::cuda
