// What the CPU benches share: random layers, and how a plan is timed on one.
#pragma once

#include <chrono>
#include <cmath>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "bench.h"
#include "ref/elements.h"
#include "timing.h"
#include "tokensieve/names.h"

namespace tokensieve::bench {

// f32 queries and outputs, f16 keys and values: what llama.cpp passes.
inline constexpr double kTolerance = 2e-3;  // of f16 inputs against ggml's own f32 sums
// Results are compared with the oracle at this size.
inline constexpr int64_t kCheckLength = 1536;

// What each kind of products may differ from the oracle, as rel-L2.
inline double tolerance_of(Products products) {
  if (products == Products::kBf16) return 1e-2;
  return products == Products::kSplit ? 2e-5 : 1e-5;
}

// The name of a bench: exact products are not named.
inline std::string with_products(const std::string& bench, Products products) {
  return products == Products::kExact ? bench : bench + " " + name_of(products);
}

// Random tokens of which every 16th is a heavy hitter, so that selection has something to find.
struct Inputs {
  Inputs(int64_t tokens, int32_t heads, int32_t kv_heads, int32_t dim)
      : tokens(tokens), heads(heads), kv_heads(kv_heads), dim(dim) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<float> pool(1 << 20);
    std::vector<uint16_t> light(pool.size()), heavy(pool.size());  // as keys
    for (size_t i = 0; i < pool.size(); ++i) {
      pool[i] = normal(random);
      light[i] = ref::encode(pool[i], ref::kF16);
      heavy[i] = ref::encode(2.5f * pool[i], ref::kF16);
    }
    const size_t queries = static_cast<size_t>(tokens) * heads * dim;
    const size_t keys = static_cast<size_t>(tokens) * kv_heads * dim;
    q.resize(queries);
    k.resize(keys);
    v.resize(keys);
    out.assign(queries, NAN);
    for (size_t i = 0; i < queries; ++i) q[i] = 1.5f * pool[(i * 7 + 3) % pool.size()];
    const size_t row = static_cast<size_t>(kv_heads) * dim;
    for (size_t i = 0; i < keys; ++i) {
      k[i] = ((i / row) % 16 == 5 ? heavy : light)[(i * 5 + 11) % pool.size()];
      v[i] = light[(i * 3 + 17) % pool.size()];
    }
  }

  // The last `queries` tokens ask.
  AttentionInputs inputs(int64_t queries) const {
    const float* first = q.data() + static_cast<size_t>(tokens - queries) * heads * dim;
    return {.q = bshd(first, DType::kF32, 1, queries, heads, dim),
            .k = bshd(k.data(), DType::kF16, 1, tokens, kv_heads, dim),
            .v = bshd(v.data(), DType::kF16, 1, tokens, kv_heads, dim)};
  }
  AttentionOutputs outputs(int64_t queries) {
    return {.out = bshd(out.data(), DType::kF32, 1, queries, heads, dim)};
  }
  AttentionShape shape(int64_t queries) const {
    AttentionShape s;
    s.seqlen_q = queries;
    s.seqlen_kv = tokens;
    s.num_q_heads = heads;
    s.num_kv_heads = kv_heads;
    s.head_dim = dim;
    s.kv_dtype = DType::kF16;
    return s;
  }

  int64_t tokens;
  int32_t heads, kv_heads, dim;
  std::vector<float> q, out;
  std::vector<uint16_t> k, v;
};

class Timer {
 public:
  explicit Timer(const Settings& settings)
      : settings_(settings), executor_(make_thread_pool(settings.num_threads)) {}

  Executor& executor() const { return *executor_; }
  int threads() const { return executor_->num_threads(); }

  // Error: the products cannot be had.
  Result<Plan> plan_for(const AttentionShape& shape, const SelectConfig& select,
                        const BlockConfig& blocks = {}, Backend backend = Backend::kCpu,
                        Products products = Products::kExact) const {
    return make_plan(shape, select, blocks,
                     {.backend = backend,
                      .isa = settings_.isa,
                      .num_threads = threads(),
                      .products = products,
                      .require_products = true});
  }

  // Milliseconds of one run.
  Result<double> run_once(const Plan& plan, Inputs& inputs, int64_t queries,
                          std::span<std::byte> workspace, RunReport* report) const {
    const auto start = std::chrono::steady_clock::now();
    TOKENSIEVE_RETURN_IF_ERROR(run(plan, inputs.inputs(queries), inputs.outputs(queries), workspace,
                                   {.executor = executor_.get(), .report = report}));
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    return time.count();
  }

  // Times a plan on inputs; the report of the last run is kept.
  Status time(const Plan& plan, Inputs& inputs, int64_t queries, Timing* timing,
              RunReport* report) const {
    std::vector<std::byte> workspace(workspace_bytes(plan));
    std::vector<double> ms;
    for (int i = 0; i <= settings_.repeats; ++i) {
      const Result<double> time = run_once(plan, inputs, queries, workspace, report);
      if (!time.ok()) return time.status();
      if (i > 0) ms.push_back(*time);  // the first run warms up
    }
    *timing = summarise(ms);
    return {};
  }

 private:
  const Settings& settings_;
  std::unique_ptr<Executor> executor_;
};

}  // namespace tokensieve::bench
