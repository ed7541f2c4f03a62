#include "bench_attend.h"

#include <string>
#include <vector>

#include "tokensieve/names.h"
#include "verify/compare.h"

namespace tokensieve::bench {
namespace {

// Who takes part in a bench.
struct Runner {
  Products products;
  Plan plan;
  double error = 0.0;  // against the oracle
  std::vector<std::byte> workspace = {};
  std::vector<double> ms = {};
};

double gflops(const AttentionShape& s, double ms) {
  const double q = static_cast<double>(s.seqlen_q);
  const double kv = static_cast<double>(s.seqlen_kv);
  const double pairs = q * (kv - q) + q * (q + 1) / 2;
  return pairs * s.num_q_heads * s.head_dim * 4 / ms / 1e6;
}

class AttendBench {
 public:
  AttendBench(const Settings& settings, const Timer& timer, GgmlFlashAttention* ggml, int32_t dim,
              int64_t rows)
      : settings_(settings), timer_(timer), ggml_(ggml), rows_(rows), inputs_(of(rows, dim)) {}

  Status run(double keep, const std::function<void(const Row&)>& emit) {
    for (const Products products : settings_.products) {
      const Result<Plan> plan = plan_of(inputs_, products);
      if (!plan.ok()) return plan.status();
      runners_.push_back({.products = products, .plan = *plan});
      runners_.back().workspace.resize(workspace_bytes(*plan));
    }
    TOKENSIEVE_RETURN_IF_ERROR(check());
    for (int i = 0; i <= settings_.repeats; ++i) TOKENSIEVE_RETURN_IF_ERROR(take_turns(i > 0));
    for (const Runner& runner : runners_) emit_rows(runner, keep, emit);
    return {};
  }

 private:
  Inputs of(int64_t rows, int32_t dim) const {
    return Inputs(rows, settings_.num_q_heads, settings_.num_kv_heads, dim);
  }

  Result<Plan> plan_of(const Inputs& inputs, Products products,
                       Backend backend = Backend::kCpu) const {
    return timer_.plan_for(inputs.shape(inputs.tokens), {.enabled = false}, {}, backend, products);
  }

  // Against the oracle, at a size that it can do.
  Status check() {
    Inputs inputs = of(std::min(rows_, kCheckLength), inputs_.dim);
    const Result<Plan> oracle = plan_of(inputs, Products::kExact, Backend::kRef);
    if (!oracle.ok()) return oracle.status();
    TOKENSIEVE_RETURN_IF_ERROR(compute(*oracle, inputs));
    const std::vector<float> expected = inputs.out;
    for (Runner& runner : runners_) {
      const Result<Plan> plan = plan_of(inputs, runner.products);
      if (!plan.ok()) return plan.status();
      TOKENSIEVE_RETURN_IF_ERROR(compute(*plan, inputs));
      runner.error = verify::rel_l2(inputs.out, expected).error;
      TOKENSIEVE_RETURN_IF_ERROR(
          judge(runner, "the oracle", runner.error, tolerance_of(runner.products)));
    }
    return {};
  }

  Status compute(const Plan& plan, Inputs& inputs) const {
    std::vector<std::byte> workspace(workspace_bytes(plan));
    return tokensieve::run(plan, inputs.inputs(inputs.tokens), inputs.outputs(inputs.tokens),
                           workspace, {.executor = &timer_.executor()});
  }

  Status judge(const Runner& runner, const char* other, double error, double tolerance) const {
    if (error < tolerance) return {};
    return Status::error(StatusCode::kInternal,
                         "attend with %s products, head_dim %d, differs from %s: rel-L2 %g, "
                         "allowed %g",
                         name_of(runner.products), inputs_.dim, other, error, tolerance);
  }

  // `counts`: not to warm up.
  Status take_turns(bool counts) {
    std::vector<float> ggml_out(ggml_ != nullptr ? inputs_.out.size() : 0);
    if (ggml_ != nullptr) {
      const Result<double> time =
          ggml_->run(inputs_.shape(rows_), inputs_.q.data(), inputs_.k.data(), inputs_.v.data(),
                     ggml_out.data());
      if (!time.ok()) return time.status();
      if (counts) ggml_ms_.push_back(*time);
    }
    for (Runner& runner : runners_) {
      const Result<double> time =
          timer_.run_once(runner.plan, inputs_, rows_, runner.workspace, nullptr);
      if (!time.ok()) return time.status();
      if (counts) runner.ms.push_back(*time);
      if (counts || ggml_ == nullptr) continue;
      const double error = verify::rel_l2(inputs_.out, ggml_out).error;
      TOKENSIEVE_RETURN_IF_ERROR(judge(runner, "ggml's flash attention", error,
                                       std::max(kTolerance, tolerance_of(runner.products))));
    }
    return {};
  }

  void emit_rows(const Runner& runner, double keep,
                 const std::function<void(const Row&)>& emit) const {
    const Timing timing = summarise(runner.ms);
    Row row{.bench = with_products("attend", runner.products),
            .head_dim = inputs_.dim,
            .rows = rows_,
            .keep_ratio = keep,
            .block_density = {},
            .ms = timing.ms,
            .spread = timing.spread,
            .gflops = gflops(inputs_.shape(rows_), timing.ms),
            .yardstick = {},
            .error = runner.error};
    if (ggml_ != nullptr) {
      row.yardstick = "ggml_flash_attn";
      row.yardstick_ms = summarise(ggml_ms_).ms;
      row.ratio = row.yardstick_ms / row.ms;
    }
    emit(row);
    const Runner& first = runners_.front();
    if (&runner == &first || first.products != Products::kExact) return;
    row.yardstick = "attend";
    row.yardstick_ms = summarise(first.ms).ms;
    row.ratio = row.yardstick_ms / row.ms;
    emit(row);
  }

  const Settings& settings_;
  const Timer& timer_;
  GgmlFlashAttention* ggml_;
  int64_t rows_;
  Inputs inputs_;
  std::vector<Runner> runners_;
  std::vector<double> ggml_ms_;
};

}  // namespace

Status bench_attend(const Settings& settings, const Timer& timer, GgmlFlashAttention* ggml,
                    int32_t dim, int64_t rows, double keep,
                    const std::function<void(const Row&)>& emit) {
  return AttendBench(settings, timer, ggml, dim, rows).run(keep, emit);
}

}  // namespace tokensieve::bench
