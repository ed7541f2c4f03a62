#include "ref/attend.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ref/blocks.h"
#include "ref/elements.h"
#include "ref/score.h"

namespace tokensieve::ref {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr int64_t kRowsPerTask = 16;

void append_range(std::vector<int32_t>& keys, int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; ++j) keys.push_back(static_cast<int32_t>(j));
}

void append_kept(std::vector<int32_t>& keys, std::span<const int32_t> kept, int64_t begin,
                 int64_t end) {
  for (int32_t j : kept) {
    if (j >= begin && j < end) keys.push_back(j);
  }
}

// Chunked prefill: rows see the kept past and the chunk up to themselves; the newest obs_window
// rows see everything, so that the end of a prompt is answered from all of it.
std::vector<int32_t> visible_in_chunk(const Plan& plan, std::span<const int32_t> kept,
                                      int64_t position) {
  std::vector<int32_t> keys;
  if (position >= plan.shape.seqlen_kv - plan.select.obs_window) {
    append_range(keys, 0, position + 1);
  } else {
    append_kept(keys, kept, 0, position + 1);
  }
  return keys;
}

// Local fill: the sinks, the row's neighbours in whole blocks and, for a kept row, the kept tokens
// in between.
std::vector<int32_t> visible_local(const SelectConfig& select, bool is_kept,
                                   std::span<const int32_t> kept, int64_t position) {
  const int64_t block = position / kLocalBlock * kLocalBlock;
  const int64_t window_begin = std::max<int64_t>(0, block - select.local_window);
  const int64_t sink_tokens = std::min<int64_t>(select.sinks, window_begin);
  std::vector<int32_t> keys;
  append_range(keys, 0, sink_tokens);
  if (is_kept) append_kept(keys, kept, sink_tokens, window_begin);
  append_range(keys, window_begin, position + 1);
  return keys;
}

// The additive bias of a key, -inf where it is masked.
double bias_of(const QueryRow& r, int64_t token) {
  if (r.inputs.bias == nullptr) return 0.0;
  const int32_t* kv_indices = r.inputs.kv_indices;
  const int64_t k_row = kv_indices ? kv_indices[r.b * r.plan.shape.seqlen_kv + token] : token;
  const double bias = decode(r.inputs.bias[r.row * r.inputs.bias_row_stride + k_row], kF16);
  if (bias == -kInf || r.inputs.bias_slopes == nullptr) return bias;
  return r.inputs.bias_slopes[r.head] * bias;
}

}  // namespace

std::vector<int32_t> visible_keys(const Plan& plan, bool dense, std::span<const int32_t> kept,
                                  int64_t position) {
  std::vector<int32_t> keys;
  if (dense) {
    append_range(keys, 0, plan.shape.causal ? position + 1 : plan.shape.seqlen_kv);
    return keys;
  }
  if (plan.select.queries == Queries::kAll) return visible_in_chunk(plan, kept, position);
  const bool is_kept = std::binary_search(kept.begin(), kept.end(), position);
  if (plan.select.fill == Fill::kLocal) {
    return visible_local(plan.select, is_kept, kept, position);
  }
  if (is_kept) append_kept(keys, kept, 0, position + 1);
  return keys;  // zero fill: dropped rows see nothing
}

double visible_pairs(const Plan& plan, const Selection& selection) {
  const AttentionShape& s = plan.shape;
  int64_t pairs = 0;
  for (const std::vector<int32_t>& kept : selection.kept) {
    for (int64_t i = s.seqlen_kv - s.seqlen_q; i < s.seqlen_kv; ++i) {
      pairs += static_cast<int64_t>(visible_keys(plan, /*dense=*/false, kept, i).size());
    }
  }
  return static_cast<double>(pairs) / static_cast<double>(selection.kept.size());
}

double attend_row(const QueryRow& r, std::span<const int32_t> tokens, double* out) {
  const AttentionShape& s = r.plan.shape;
  std::vector<double> query(s.head_dim);
  load_row(r.inputs.q, r.b, r.row, r.head, query.data());
  std::vector<double> logits(tokens.size(), -kInf);
  double max = -kInf;
  bool masked = true;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const double bias = bias_of(r, tokens[t]);
    if (bias == -kInf) continue;
    logits[t] = logit(s, query.data(), r.keys + tokens[t] * int64_t{s.head_dim}) + bias;
    if (logits[t] != -kInf) masked = false;  // NaN counts: it must reach the output
    max = std::max(max, logits[t]);
  }
  std::fill(out, out + s.head_dim, 0.0);
  if (masked) return -kInf;

  // A sink is a logit without a value: it takes part in the maximum and in the denominator.
  double denominator = 0.0;
  if (r.inputs.sink_logits != nullptr) {
    const double sink_mass = r.inputs.sink_logits[r.head];
    max = std::max(max, sink_mass);
    denominator = std::exp(sink_mass - max);
  }
  for (size_t t = 0; t < tokens.size(); ++t) {
    if (logits[t] == -kInf) continue;
    const double weight = std::exp(logits[t] - max);
    denominator += weight;
    const double* value = r.values + tokens[t] * int64_t{s.head_dim};
    for (int64_t d = 0; d < s.head_dim; ++d) out[d] += weight * value[d];
  }
  for (int64_t d = 0; d < s.head_dim; ++d) out[d] /= denominator;
  return max + std::log(denominator);
}

Status attend(const Plan& plan, const AttentionInputs& inputs, int64_t b,
              const Selection& selection, const Masks& masks, const RunOptions& options,
              double* out, double* lse) {
  const AttentionShape& s = plan.shape;
  const int64_t group_size = s.num_q_heads / s.num_kv_heads;
  const std::vector<double> keys = load_sequence(inputs.k, inputs.kv_indices, b, s.seqlen_kv);
  const std::vector<double> values = load_sequence(inputs.v, inputs.kv_indices, b, s.seqlen_kv);
  Executor& executor = options.executor ? *options.executor : serial_executor();

  for (int64_t h = 0; h < s.num_q_heads; ++h) {
    if (options.should_cancel && options.should_cancel(options.cancel_context)) {
      return Status::error(StatusCode::kCancelled, "the caller cancelled the run");
    }
    const int64_t kv_head = (h / group_size) * s.seqlen_kv * s.head_dim;
    std::span<const int32_t> kept;
    if (!selection.dense()) kept = selection.kept_of(plan, h);
    const int64_t tasks = (s.seqlen_q + kRowsPerTask - 1) / kRowsPerTask;
    executor.parallel_for(tasks, [&](int64_t task, int) {
      const int64_t end = std::min(s.seqlen_q, (task + 1) * kRowsPerTask);
      for (int64_t i = task * kRowsPerTask; i < end; ++i) {
        const int64_t position = s.seqlen_kv - s.seqlen_q + i;
        const QueryRow row = {plan, inputs, b, h, i, &keys[kv_head], &values[kv_head]};
        std::vector<int32_t> visible = visible_keys(plan, selection.dense(), kept, position);
        if (!masks.bits.empty()) hide_tiles(plan, masks, h, kept, position, visible);
        lse[h * s.seqlen_q + i] =
            attend_row(row, visible, out + (i * s.num_q_heads + h) * s.head_dim);
      }
    });
  }
  return {};
}

}  // namespace tokensieve::ref
