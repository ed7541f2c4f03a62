#include "bench_cuda.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <memory>
#include <random>
#include <span>

#include "core/tiles.h"
#include "cuda/call.h"
#include "cuda_estimates.h"
#include "cuda_timing.h"

namespace tokensieve::bench {
namespace {

using cuda::Call;
using cuda::DeviceBuffer;

constexpr double kTolerance = 5e-3;     // bf16 against the oracle
constexpr int64_t kCheckLength = 1536;  // sparse results are compared with the oracle at this size

struct LayerKind {
  const char* name;
  Fill fill;
  Share share;
  bool chunk = false;  // the newest --ubatch tokens of the prompt, not all
};
constexpr LayerKind kLayers[] = {{"layer_zero", Fill::kZero, Share::kHead},
                                 {"layer_local", Fill::kLocal, Share::kLayer},
                                 {"layer_chunk", Fill::kLocal, Share::kLayer, true}};

constexpr double kDensities[] = {0.25, 0.5};  // of random block masks

// A mask for every query head: the first column, the diagonal and random tiles.
struct RandomMask {
  std::vector<uint32_t> bits;
  double density = 0.0;  // visited / visible tiles
  double pairs = 0.0;    // visible ones in visited tiles, of all heads

  RandomMask(const Plan& plan, double share)
      : bits(static_cast<size_t>(plan.num_masks * plan.row_tiles * plan.mask_words)) {
    std::mt19937 random(11);
    const TileGrid grid = tile_grid(plan, {});
    const BlockMask mask = view(plan, bits.data());
    int64_t visited = 0, visible = 0;
    for (int64_t m = 0; m < plan.num_masks; ++m) {
      for (int64_t t = 0; t < grid.row_tiles(); ++t) {
        for (int64_t c = 0; c < grid.end(t); ++c) {
          const bool forced = c == 0 || c >= grid.diagonal(t);
          ++visible;
          if (!forced && random() >= share * 0x1p32) continue;
          mask_rows(mask, 0, m).set(t, c);
          ++visited;
          pairs += c >= grid.diagonal(t) ? kBlock * (kBlock + 1) / 2 : kBlock * kBlock;
        }
      }
    }
    density = static_cast<double>(visited) / static_cast<double>(visible);
  }
  static BlockMask view(const Plan& plan, uint32_t* bits) {
    return {bits, plan.row_tiles, plan.mask_words, plan.num_masks};
  }
};

// The plan of a measured call.
using PlanOf = std::function<Result<Plan>(const AttentionShape&, Backend)>;

Result<Plan> block_plan(const AttentionShape& shape, Backend backend) {
  return make_plan(shape, {.enabled = false}, BlockConfig{.pattern = BlockPattern::kGiven},
                   {.backend = backend});
}

class CudaBench {
 public:
  CudaBench(const Settings& settings, const std::function<void(const Row&)>& emit)
      : settings_(settings), emit_(emit) {}

  Status run() {
    const Result<cuda::Device> device = cuda::current_device();
    if (!device.ok()) return device.status();
    device_ = *device;
    for (int32_t dim : settings_.head_dims) {
      for (const LayerKind& kind : kLayers) {
        const PlanOf plan = [&](const AttentionShape& shape, Backend backend) {
          return layer_plan(shape, kind, 0.4, backend);
        };
        TOKENSIEVE_RETURN_IF_ERROR(check(kind.name, plan, kind.chunk, dim));
      }
      TOKENSIEVE_RETURN_IF_ERROR(check("blocks", block_plan, /*chunk=*/false, dim));
      for (int64_t length : settings_.lengths) TOKENSIEVE_RETURN_IF_ERROR(run_length(dim, length));
    }
    return {};
  }

 private:
  Result<Plan> dense_plan(const AttentionShape& shape) const {
    return make_plan(shape, {.enabled = false}, {.backend = Backend::kCuda});
  }

  Result<Plan> layer_plan(const AttentionShape& shape, const LayerKind& kind, double keep,
                          Backend backend) const {
    SelectConfig select;
    select.budget = BudgetPolicy::kKeepRatio;
    select.keep_ratio = keep;
    select.min_keep = 64;
    select.fill = kind.fill;
    select.share = kind.share;
    select.local_window = settings_.local_window;
    select.dense_policy = DensePolicy::kNever;
    return make_plan(shape, select, {.backend = backend});
  }

  // A call gives the oracle's result; at a size that the oracle can do.
  Status check(const char* name, const PlanOf& plan_of, bool chunk, int32_t dim) const {
    const int32_t group = settings_.num_q_heads / settings_.num_kv_heads;
    const DeviceInputs inputs(kCheckLength, 2 * group, 2, dim);
    const int64_t queries = chunk ? kCheckLength / 2 : kCheckLength;
    const Result<Plan> plan = plan_of(inputs.shape(queries), Backend::kCuda);
    if (!plan.ok()) return plan.status();
    const bool masked = plan->blocks.pattern == BlockPattern::kGiven;
    std::vector<uint32_t> bits;
    if (masked) bits = RandomMask(*plan, 0.3).bits;
    const DeviceBuffer workspace(workspace_bytes(*plan)), device_bits(bits);
    AttentionInputs in = inputs.inputs(queries);
    if (masked) in.block_mask = RandomMask::view(*plan, device_bits.as<uint32_t>());
    TOKENSIEVE_RETURN_IF_ERROR(tokensieve::run(*plan, in, inputs.outputs(queries),
                                               {workspace.data(), workspace.bytes()}));
    const auto q = inputs.q().read<uint16_t>(), k = inputs.k().read<uint16_t>(),
               v = inputs.v().read<uint16_t>();
    auto out = inputs.out().read<uint16_t>();
    AttentionShape shape = inputs.shape(queries);
    out.resize(static_cast<size_t>(queries) * shape.num_q_heads * shape.head_dim);
    shape.out_dtype = DType::kF32;
    const Result<Plan> oracle = plan_of(shape, Backend::kRef);
    if (!oracle.ok()) return oracle.status();
    AttentionInputs host = in;
    if (masked) host.block_mask.bits = bits.data();
    host.q.data = const_cast<uint16_t*>(q.data());
    host.k.data = const_cast<uint16_t*>(k.data());
    host.v.data = const_cast<uint16_t*>(v.data());
    std::vector<float> expected(out.size());
    AttentionOutputs outputs = inputs.outputs(queries);
    outputs.out.data = expected.data();
    outputs.out.dtype = DType::kF32;
    const std::unique_ptr<Executor> executor = make_thread_pool(0);
    Plan threaded = *oracle;
    threaded.options.num_threads = executor->num_threads();
    TOKENSIEVE_RETURN_IF_ERROR(
        tokensieve::run(threaded, host, outputs, {}, {.executor = executor.get()}));
    double error = 0.0, norm = 0.0;
    for (size_t i = 0; i < out.size(); ++i) {
      const double difference = ref::decode(out[i], ref::kBF16) - expected[i];
      error += difference * difference;
      norm += static_cast<double>(expected[i]) * expected[i];
    }
    error = std::sqrt(error / norm);
    if (error < kTolerance) return {};
    return Status::error(StatusCode::kInternal,
                         "%s, head_dim %d differs from the oracle: rel-L2 %g", name, dim,
                         error);
  }

  Status run_length(int32_t dim, int64_t length) {
    const DeviceInputs inputs(length, settings_.num_q_heads, settings_.num_kv_heads, dim);
    if (!inputs.ok()) return out_of_memory(length);
    TOKENSIEVE_RETURN_IF_ERROR(run_calls(inputs, length, /*chunk=*/false));
    if (settings_.ubatch >= length) return {};
    return run_calls(inputs, settings_.ubatch, /*chunk=*/true);
  }

  // The layers of whole prompts or of chunks, and dense attention of the same call.
  Status run_calls(const DeviceInputs& inputs, int64_t queries, bool chunk) {
    const AttentionShape shape = inputs.shape(queries);
    const Result<Plan> plan = dense_plan(shape);
    if (!plan.ok()) return plan.status();
    const DeviceBuffer workspace(workspace_bytes(*plan));
    Timing dense;
    TOKENSIEVE_RETURN_IF_ERROR(timer_.time(
        [&](void* stream) {
          return tokensieve::run(*plan, inputs.inputs(queries), inputs.outputs(queries),
                                 {workspace.data(), workspace.bytes()}, {.stream = stream});
        },
        settings_.repeats, dense));
    if (settings_.wants("attend")) {
      Row row = row_of(chunk ? "dense chunk" : "dense", shape, dense);
      const double q = static_cast<double>(queries), kv = static_cast<double>(shape.seqlen_kv);
      const double pairs = q * (kv - q) + q * q / 2;
      row.gflops = 4.0 * shape.head_dim * settings_.num_q_heads * pairs / dense.ms / 1e6;
      emit_(row);
      for (double density : kDensities) {
        if (!chunk) TOKENSIEVE_RETURN_IF_ERROR(bench_blocks(inputs, queries, density, dense));
      }
      if (!chunk) TOKENSIEVE_RETURN_IF_ERROR(bench_estimates(inputs, dense));
    }
    for (double keep : settings_.keep_ratios) {
      for (const LayerKind& kind : kLayers) {
        if (kind.chunk != chunk) continue;
        TOKENSIEVE_RETURN_IF_ERROR(bench_layer(inputs, queries, kind, keep, dense));
      }
    }
    return {};
  }

  // Attention under random masks against dense attention of the same call.
  Status bench_blocks(const DeviceInputs& inputs, int64_t queries, double density,
                      const Timing& dense) {
    const AttentionShape shape = inputs.shape(queries);
    const Result<Plan> plan = block_plan(shape, Backend::kCuda);
    if (!plan.ok()) return plan.status();
    const RandomMask mask(*plan, density);
    const DeviceBuffer workspace(workspace_bytes(*plan)), bits(mask.bits);
    if (!workspace.ok() || !bits.ok()) return out_of_memory(shape.seqlen_kv);
    AttentionInputs in = inputs.inputs(queries);
    in.block_mask = RandomMask::view(*plan, bits.as<uint32_t>());
    Timing timing;
    TOKENSIEVE_RETURN_IF_ERROR(timer_.time(
        [&](void* stream) {
          return tokensieve::run(*plan, in, inputs.outputs(queries),
                                 {workspace.data(), workspace.bytes()}, {.stream = stream});
        },
        settings_.repeats, timing));
    char name[48];
    std::snprintf(name, sizeof(name), "blocks of density %.3f", mask.density);
    Row row = row_of(name, shape, timing);
    row.gflops = 4.0 * shape.head_dim * mask.pairs / timing.ms / 1e6;
    row.yardstick = "own_dense";
    row.yardstick_ms = dense.ms;
    row.ratio = dense.ms / timing.ms;
    emit_(row);
    return {};
  }

  // Estimated masks of all tokens, and of those that the paper's layer keeps.
  Status bench_estimates(const DeviceInputs& inputs, const Timing& dense) {
    SelectConfig select = {.enabled = false, .dense_policy = DensePolicy::kNever};
    for (const bool selects : {false, true}) {
      select.enabled = selects;
      select.budget = BudgetPolicy::kKeepRatio;
      select.keep_ratio = 0.478;
      for (const Estimator& estimator : estimators()) {
        TOKENSIEVE_RETURN_IF_ERROR(bench_estimate(inputs, estimator, select, device_, timer_,
                                                  settings_.repeats, dense.ms, emit_));
      }
    }
    return {};
  }

  static Status out_of_memory(int64_t length) {
    return Status::error(StatusCode::kOutOfMemory,
                         "the GPU has too little memory for %lld tokens; use shorter --lengths",
                         static_cast<long long>(length));
  }

  static Row row_of(const char* bench, const AttentionShape& shape, const Timing& timing) {
    Row row;
    row.bench = bench;
    row.head_dim = shape.head_dim;
    row.rows = shape.seqlen_kv;
    row.ms = timing.ms;
    row.spread = timing.spread;
    return row;
  }

  // The layer against dense attention; then its stages, each repeated by itself, as shares of it.
  Status bench_layer(const DeviceInputs& inputs, int64_t queries, const LayerKind& kind,
                     double keep, const Timing& dense) {
    const AttentionShape shape = inputs.shape(queries);
    const Result<Plan> plan = layer_plan(shape, kind, keep, Backend::kCuda);
    if (!plan.ok()) return plan.status();
    if (plan->path == Path::kDense) return {};  // too short for this keep ratio
    const DeviceBuffer memory(workspace_bytes(*plan));
    if (!memory.ok()) return out_of_memory(shape.seqlen_kv);
    const std::span<std::byte> workspace(memory.data(), memory.bytes());
    Timing layer;
    TOKENSIEVE_RETURN_IF_ERROR(timer_.time(
        [&](void* stream) {
          return tokensieve::run(*plan, inputs.inputs(queries), inputs.outputs(queries), workspace,
                                 {.stream = stream});
        },
        settings_.repeats, layer));
    Row row = row_of(kind.name, shape, layer);
    row.keep_ratio = keep;
    row.yardstick = "own_dense";
    row.yardstick_ms = dense.ms;
    row.ratio = dense.ms / layer.ms;
    if (settings_.wants("layer")) emit_(row);
    return bench_stages(inputs, *plan, workspace, row, layer);
  }

  Status bench_stages(const DeviceInputs& inputs, const Plan& plan, std::span<std::byte> workspace,
                      const Row& layer_row, const Timing& layer) {
    const cuda::Layout layout =
        cuda::make_layout(plan, device_.num_multiprocessors, workspace.data());
    const int64_t queries = plan.shape.seqlen_q;
    const AttentionInputs in = inputs.inputs(queries);
    const auto stage = [&](const char* name, const char* wanted, auto body) -> Status {
      if (!settings_.wants(wanted)) return {};
      Timing timing;
      TOKENSIEVE_RETURN_IF_ERROR(timer_.time(
          [&](void* stream) {
            Call call(plan, in, layout, device_, stream);
            return body(call, call.own_selection());
          },
          settings_.repeats, timing));
      Row row = row_of(name, plan.shape, timing);
      row.bench += " of " + layer_row.bench;
      row.keep_ratio = layer_row.keep_ratio;
      row.yardstick = layer_row.bench;
      row.yardstick_ms = layer.ms;
      row.ratio = timing.ms / layer.ms;
      row.share = true;
      emit_(row);
      return {};
    };
    using cuda::Selection;
    TOKENSIEVE_RETURN_IF_ERROR(stage("score", "select", [&](Call& call, const Selection&) {
      return call.score();
    }));
    const auto select = [](Call& call, const Selection& s) { return call.select(s, nullptr); };
    const auto compact = [](Call& call, const Selection& s) { return call.compact(s); };
    TOKENSIEVE_RETURN_IF_ERROR(stage("budget+select", "select", select));
    TOKENSIEVE_RETURN_IF_ERROR(stage("compact", "compact", compact));
    return stage("attend", "attend", [&](Call& call, const Selection& selection) {
      return call.attend(inputs.outputs(queries), selection);
    });
  }

  const Settings& settings_;
  const std::function<void(const Row&)>& emit_;
  cuda::Device device_ = {};
  DeviceTimer timer_;
};

}  // namespace

Status run_cuda(const Settings& settings, const std::function<void(const Row&)>& emit) {
  return CudaBench(settings, emit).run();
}

}  // namespace tokensieve::bench
