// Times of block masks that the device estimates, alone and after token selection.
#pragma once

#include <cstdio>
#include <functional>

#include "bench.h"
#include "cuda/call.h"
#include "cuda_timing.h"

namespace tokensieve::bench {

struct Estimator {
  const char* name;
  BlockConfig blocks;
};

inline std::vector<Estimator> estimators() {
  using enum BlockPattern;
  return {{"flex lines", {.pattern = kFlex, .flex_tau = 0.0}},
          {"flex aware", {.pattern = kFlex, .flex_tau = 2.0}},
          {"pooled", {.pattern = kPooled}},
          {"pooled kv", {.pattern = kPooled, .share = Share::kKv}},
          {"antidiagonal 16", {.pattern = kAntidiagonal}},
          {"antidiagonal 32", {.pattern = kAntidiagonal, .stride = 32}}};
}

// Whole prompts of `inputs`; `select` may be off. Emits the masks' own time and the call's.
inline Status bench_estimate(const DeviceInputs& inputs, const Estimator& estimator,
                             const SelectConfig& select, const cuda::Device& device,
                             DeviceTimer& timer, int repeats, double dense_ms,
                             const std::function<void(const Row&)>& emit) {
  const int64_t tokens = inputs.inputs(1).k.shape[1];
  const Result<Plan> plan =
      make_plan(inputs.shape(tokens), select, estimator.blocks, {.backend = Backend::kCuda});
  if (!plan.ok()) return plan.status();
  const DeviceBuffer memory(workspace_bytes(*plan));
  if (!memory.ok()) return {};  // a smaller GPU
  const std::span<std::byte> workspace(memory.data(), memory.bytes());
  const AttentionInputs in = inputs.inputs(tokens);
  Timing call_time, mask_time;
  TOKENSIEVE_RETURN_IF_ERROR(timer.time(
      [&](void* stream) {
        return tokensieve::run(*plan, in, inputs.outputs(tokens), workspace, {.stream = stream});
      },
      repeats, call_time));
  RunReport report;
  TOKENSIEVE_RETURN_IF_ERROR(read_report(*plan, workspace, nullptr, &report));
  const cuda::Layout layout =
      cuda::make_layout(*plan, device.num_multiprocessors, workspace.data());
  // A call leaves its sets and compact keys behind.
  TOKENSIEVE_RETURN_IF_ERROR(timer.time(
      [&](void* stream) {
        cuda::Call call(*plan, in, layout, device, stream);
        const bool sparse = plan->path == Path::kSparse;
        return call.masks(sparse ? call.own_selection() : cuda::Selection{});
      },
      repeats, mask_time));
  const auto emit_row = [&](const char* what, const Timing& timing) {
    char name[64];
    std::snprintf(name, sizeof(name), "%s%s, density %.3f", estimator.name, what,
                  report.block_density);
    Row row;
    row.bench = name;
    row.head_dim = plan->shape.head_dim;
    row.rows = tokens;
    row.ms = timing.ms;
    row.spread = timing.spread;
    row.keep_ratio = select.enabled ? report.keep_ratio : 0.0;
    row.yardstick = "own_dense";
    row.yardstick_ms = dense_ms;
    row.ratio = dense_ms / timing.ms;
    emit(row);
  };
  emit_row(" masks", mask_time);
  emit_row(" call", call_time);
  return {};
}

}  // namespace tokensieve::bench
