// Inputs on the device, and the time of what is enqueued there.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <utility>
#include <vector>

#include "cuda/checks.h"
#include "cuda/device_buffer.h"
#include "ref/elements.h"
#include "timing.h"
#include "tokensieve/attention.h"

namespace tokensieve::bench {

using cuda::DeviceBuffer;
using cuda::launched;

inline constexpr double kSustained = 0.4;  // seconds: shorter bursts run at clocks that do not last
inline constexpr double kGraphMs = 2.0;    // work in a graph: launches by the host do not show

// bf16 tensors [1, tokens, heads, dim] of random numbers; every 16th token's key is a heavy hitter.
class DeviceInputs {
 public:
  DeviceInputs(int64_t tokens, int32_t heads, int32_t kv_heads, int32_t dim)
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
class DeviceTimer {
 public:
  DeviceTimer() {
    cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
    cudaEventCreate(&begin_);
    cudaEventCreate(&end_);
  }
  ~DeviceTimer() {
    cudaEventDestroy(end_);
    cudaEventDestroy(begin_);
    cudaStreamDestroy(stream_);
  }
  DeviceTimer(const DeviceTimer&) = delete;

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
    timing = summarise(std::move(ms));
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

}  // namespace tokensieve::bench
