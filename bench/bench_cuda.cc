#include "bench_cuda.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <span>

#include "cuda/call.h"
#include "cuda/checks.h"
#include "cuda/device_buffer.h"
#include "ref/elements.h"

namespace tokensieve::bench {
namespace {

using cuda::Call;
using cuda::DeviceBuffer;
using cuda::launched;

constexpr double kTolerance = 5e-3;     // bf16 against the oracle
constexpr int64_t kCheckLength = 1536;  // sparse results are compared with the oracle at this size
constexpr double kSustained = 0.4;      // seconds: shorter bursts run at clocks that do not last
constexpr double kGraphMs = 2.0;        // work in a graph, so that launches by the host do not show

struct Timing {
  double ms = 0.0;
  double spread = 0.0;
};

// bf16 tensors [1, tokens, heads, dim] of random numbers; every 16th token's key is a heavy hitter.
class Inputs {
 public:
  Inputs(int64_t tokens, int32_t heads, int32_t kv_heads, int32_t dim)
      : shape_{.seqlen_q = tokens,
               .seqlen_kv = tokens,
               .num_q_heads = heads,
               .num_kv_heads = kv_heads,
               .head_dim = dim,
               .dtype = DType::kBF16,
               .kv_dtype = DType::kBF16,
               .out_dtype = DType::kBF16},
        q_(tokens * heads * dim * 2),
        k_(tokens * kv_heads * dim * 2),
        v_(tokens * kv_heads * dim * 2),
        out_(tokens * heads * dim * 2) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<uint16_t> pool(1048573);  // a prime: no two rows are equal
    for (uint16_t& x : pool) x = ref::encode(1.5 * normal(random), ref::kBF16);
    const DeviceBuffer device_pool(pool);
    for (const DeviceBuffer* to : {&q_, &k_, &v_}) tile(device_pool, *to);
  }

  bool ok() const { return q_.ok() && k_.ok() && v_.ok() && out_.ok(); }
  // A call with so many of the tokens as queries.
  AttentionShape shape(int64_t queries) const {
    AttentionShape shape = shape_;
    shape.seqlen_q = queries;
    return shape;
  }
  AttentionInputs inputs(int64_t queries) const {
    return {.q = view(q_, queries, shape_.num_q_heads),
            .k = view(k_, shape_.seqlen_kv, shape_.num_kv_heads),
            .v = view(v_, shape_.seqlen_kv, shape_.num_kv_heads)};
  }
  AttentionOutputs outputs(int64_t queries) const {
    return {.out = view(out_, queries, shape_.num_q_heads)};
  }
  const DeviceBuffer& q() const { return q_; }
  const DeviceBuffer& k() const { return k_; }
  const DeviceBuffer& v() const { return v_; }
  const DeviceBuffer& out() const { return out_; }

 private:
  TensorView view(const DeviceBuffer& memory, int64_t rows, int32_t heads) const {
    return bshd(memory.data(), DType::kBF16, 1, rows, heads, shape_.head_dim);
  }
  static void tile(const DeviceBuffer& pool, const DeviceBuffer& to) {
    for (size_t at = 0; at < to.bytes(); at += pool.bytes()) {
      cudaMemcpy(to.data() + at, pool.data(), std::min(pool.bytes(), to.bytes() - at),
                 cudaMemcpyDeviceToDevice);
    }
  }

  AttentionShape shape_;
  DeviceBuffer q_, k_, v_, out_;
};

// Times what `enqueue(stream)` enqueues, as a graph of several calls.
class Timer {
 public:
  Timer() {
    cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
    cudaEventCreate(&begin_);
    cudaEventCreate(&end_);
  }
  ~Timer() {
    cudaEventDestroy(end_);
    cudaEventDestroy(begin_);
    cudaStreamDestroy(stream_);
  }
  Timer(const Timer&) = delete;

  using Enqueue = std::function<Status(void* stream)>;
  Status time(const Enqueue& enqueue, int repeats, Timing& timing) {
    double single = 0.0;
    for (int i = 0; i < 2; ++i) {  // the first call loads the kernels
      TOKENSIEVE_RETURN_IF_ERROR(measure([&] { return enqueue(stream_); }, 1, single));
    }
    const int calls = std::clamp(static_cast<int>(kGraphMs / single), 1, 50);
    Graph graph;
    TOKENSIEVE_RETURN_IF_ERROR(capture(enqueue, calls, graph));
    const auto replay = [&] { return launched("graph", cudaGraphLaunch(graph.replay, stream_)); };
    const int replays =
        std::max(1, static_cast<int>(std::ceil(kSustained * 1e3 / (single * calls))));
    double warm = 0.0;
    TOKENSIEVE_RETURN_IF_ERROR(measure(replay, std::max(1, replays / 4), warm));
    std::vector<double> ms(repeats);
    for (double& x : ms) {
      TOKENSIEVE_RETURN_IF_ERROR(measure(replay, replays, x));
      x /= calls;
    }
    std::sort(ms.begin(), ms.end());
    timing.ms = ms[ms.size() / 2];
    timing.spread = (ms.back() - ms.front()) / timing.ms;
    return {};
  }

 private:
  struct Graph {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    ~Graph() {
      if (replay != nullptr) cudaGraphExecDestroy(replay);
      if (graph != nullptr) cudaGraphDestroy(graph);
    }
  };

  Status capture(const Enqueue& enqueue, int calls, Graph& graph) {
    TOKENSIEVE_RETURN_IF_ERROR(launched(
        "capture", cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal)));
    Status status;
    for (int i = 0; i < calls && status.ok(); ++i) status = enqueue(stream_);
    const cudaError_t error = cudaStreamEndCapture(stream_, &graph.graph);
    TOKENSIEVE_RETURN_IF_ERROR(status);
    TOKENSIEVE_RETURN_IF_ERROR(launched("capture", error));
    return launched("graph", cudaGraphInstantiate(&graph.replay, graph.graph, 0));
  }

  // Milliseconds of one of `count` back to back.
  template <typename F>
  Status measure(F&& body, int count, double& ms) {
    cudaEventRecord(begin_, stream_);
    for (int i = 0; i < count; ++i) TOKENSIEVE_RETURN_IF_ERROR(body());
    cudaEventRecord(end_, stream_);
    TOKENSIEVE_RETURN_IF_ERROR(launched("run", cudaEventSynchronize(end_)));
    float total = 0.0f;
    cudaEventElapsedTime(&total, begin_, end_);
    ms = std::max(1e-4, static_cast<double>(total) / count);
    return {};
  }

  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

struct LayerKind {
  const char* name;
  Fill fill;
  Share share;
  bool chunk = false;  // the newest --ubatch tokens of the prompt, not all
};
constexpr LayerKind kLayers[] = {{"layer_zero", Fill::kZero, Share::kHead},
                                 {"layer_local", Fill::kLocal, Share::kLayer},
                                 {"layer_chunk", Fill::kLocal, Share::kLayer, true}};

class CudaBench {
 public:
  CudaBench(const Settings& settings, const std::function<void(const Row&)>& emit)
      : settings_(settings), emit_(emit) {}

  Status run() {
    const Result<cuda::Device> device = cuda::current_device();
    if (!device.ok()) return device.status();
    device_ = *device;
    for (int32_t dim : settings_.head_dims) {
      for (const LayerKind& kind : kLayers) TOKENSIEVE_RETURN_IF_ERROR(check(kind, dim));
      for (int64_t length : settings_.lengths) TOKENSIEVE_RETURN_IF_ERROR(run_length(dim, length));
    }
    return {};
  }

 private:
  Result<Plan> dense_plan(const AttentionShape& shape) const {
    return make_plan(shape, {.enabled = false}, {.backend = Backend::kCuda});
  }

  Result<Plan> layer_plan(const AttentionShape& shape, const LayerKind& kind, double keep,
                          Backend backend = Backend::kCuda) const {
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

  // The layer gives the oracle's result; at a size that the oracle can do.
  Status check(const LayerKind& kind, int32_t dim) const {
    const int32_t group = settings_.num_q_heads / settings_.num_kv_heads;
    const Inputs inputs(kCheckLength, 2 * group, 2, dim);
    const int64_t queries = kind.chunk ? kCheckLength / 2 : kCheckLength;
    const Result<Plan> plan = layer_plan(inputs.shape(queries), kind, 0.4);
    if (!plan.ok()) return plan.status();
    const DeviceBuffer workspace(workspace_bytes(*plan));
    TOKENSIEVE_RETURN_IF_ERROR(tokensieve::run(*plan, inputs.inputs(queries),
                                               inputs.outputs(queries),
                                               {workspace.data(), workspace.bytes()}));
    const auto q = inputs.q().read<uint16_t>(), k = inputs.k().read<uint16_t>(),
               v = inputs.v().read<uint16_t>();
    auto out = inputs.out().read<uint16_t>();
    AttentionShape shape = inputs.shape(queries);
    out.resize(static_cast<size_t>(queries) * shape.num_q_heads * shape.head_dim);
    shape.out_dtype = DType::kF32;
    const Result<Plan> oracle = layer_plan(shape, kind, 0.4, Backend::kRef);
    if (!oracle.ok()) return oracle.status();
    AttentionInputs host = inputs.inputs(queries);
    host.q.data = const_cast<uint16_t*>(q.data());
    host.k.data = const_cast<uint16_t*>(k.data());
    host.v.data = const_cast<uint16_t*>(v.data());
    std::vector<float> expected(out.size());
    AttentionOutputs outputs = inputs.outputs(queries);
    outputs.out.data = expected.data();
    outputs.out.dtype = DType::kF32;
    const std::unique_ptr<Executor> executor = make_thread_pool(0);
    const AttentionShape& s = plan->shape;
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
                         "%s, head_dim %d differs from the oracle: rel-L2 %g", kind.name,
                         s.head_dim, error);
  }

  Status run_length(int32_t dim, int64_t length) {
    const Inputs inputs(length, settings_.num_q_heads, settings_.num_kv_heads, dim);
    if (!inputs.ok()) return out_of_memory(length);
    TOKENSIEVE_RETURN_IF_ERROR(run_calls(inputs, length, /*chunk=*/false));
    if (settings_.ubatch >= length) return {};
    return run_calls(inputs, settings_.ubatch, /*chunk=*/true);
  }

  // The layers of whole prompts or of chunks, and dense attention of the same call.
  Status run_calls(const Inputs& inputs, int64_t queries, bool chunk) {
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
    }
    for (double keep : settings_.keep_ratios) {
      for (const LayerKind& kind : kLayers) {
        if (kind.chunk != chunk) continue;
        TOKENSIEVE_RETURN_IF_ERROR(bench_layer(inputs, queries, kind, keep, dense));
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
  Status bench_layer(const Inputs& inputs, int64_t queries, const LayerKind& kind, double keep,
                     const Timing& dense) {
    const AttentionShape shape = inputs.shape(queries);
    const Result<Plan> plan = layer_plan(shape, kind, keep);
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

  Status bench_stages(const Inputs& inputs, const Plan& plan, std::span<std::byte> workspace,
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
  Timer timer_;
};

}  // namespace

Status run_cuda(const Settings& settings, const std::function<void(const Row&)>& emit) {
  return CudaBench(settings, emit).run();
}

}  // namespace tokensieve::bench
