#include "bench.h"

#include <algorithm>
#include <map>
#include <span>
#include <utility>

#include "bench_blocks.h"
#include "timer.h"
#include "verify/compare.h"
#include "yardstick_ggml.h"

namespace tokensieve::bench {
namespace {

// A sparse layer that the benches measure.
struct LayerKind {
  const char* name;
  Fill fill;
  Share share;
  bool chunk = false;  // the newest --ubatch tokens of the prompt, not all
};
constexpr LayerKind kZeroLayer = {"layer_zero", Fill::kZero, Share::kHead};
constexpr LayerKind kLocalLayer = {"layer_local", Fill::kLocal, Share::kLayer};
constexpr LayerKind kChunkLayer = {"layer_chunk", Fill::kLocal, Share::kLayer, true};

class Bench {
 public:
  Bench(const Settings& settings, const std::function<void(const Row&)>& emit)
      : settings_(settings), emit_(emit), timer_(settings) {
    ggml_ = make_ggml_flash_attention(settings.llama_bin, timer_.threads());
    peak_ = fma_peak_gflops(timer_.threads(), timer_.executor());
  }

  Status run() {
    Row row;
    row.bench = "fma_peak";
    row.gflops = peak_;
    emit_(row);
    for (int32_t dim : settings_.head_dims) {
      for (int64_t length : settings_.lengths) TOKENSIEVE_RETURN_IF_ERROR(run_length(dim, length));
    }
    return {};
  }

 private:
  Status run_length(int32_t dim, int64_t length) {
    dense_.reset();
    if (settings_.wants("attend")) {
      TOKENSIEVE_RETURN_IF_ERROR(bench_attend(dim, length, 1.0));
      for (double keep : settings_.keep_ratios) {
        const int64_t rows = static_cast<int64_t>(keep * static_cast<double>(length));
        if (rows >= 256) TOKENSIEVE_RETURN_IF_ERROR(bench_attend(dim, rows, keep));
      }
    }
    const bool layers =
        settings_.wants("compact") || settings_.wants("select") || settings_.wants("layer");
    if (!layers && !settings_.wants("blocks")) return {};
    Inputs inputs(length, settings_.num_q_heads, settings_.num_kv_heads, dim);
    if (settings_.wants("blocks")) {
      TOKENSIEVE_RETURN_IF_ERROR(bench_blocks(settings_, timer_, inputs, emit_));
    }
    if (!layers) return {};
    for (double keep : settings_.keep_ratios) {
      TOKENSIEVE_RETURN_IF_ERROR(bench_layer(inputs, kZeroLayer, length, keep));
      TOKENSIEVE_RETURN_IF_ERROR(bench_layer(inputs, kLocalLayer, length, keep));
      if (settings_.ubatch < length) {
        TOKENSIEVE_RETURN_IF_ERROR(bench_layer(inputs, kChunkLayer, settings_.ubatch, keep));
      }
    }
    return {};
  }

  SelectConfig layer_config(const LayerKind& kind, double keep) const {
    return settings_.layer(kind.fill, kind.share, keep);
  }

  static double gflops(const AttentionShape& s, double ms) {
    const double q = static_cast<double>(s.seqlen_q);
    const double kv = static_cast<double>(s.seqlen_kv);
    const double pairs = q * (kv - q) + q * (q + 1) / 2;
    return pairs * s.num_q_heads * s.head_dim * 4 / ms / 1e6;
  }

  // Dense attention of `rows` tokens against ggml's flash attention on the same tensors; with
  // keep < 1 these are the compact rows of a longer prompt.
  Status bench_attend(int32_t dim, int64_t rows, double keep) {
    Inputs inputs(rows, settings_.num_q_heads, settings_.num_kv_heads, dim);
    const Result<Plan> plan = timer_.plan_for(inputs.shape(rows), {.enabled = false});
    if (!plan.ok()) return plan.status();
    Row row;
    row.bench = "attend";
    row.head_dim = dim;
    row.rows = rows;
    row.keep_ratio = keep;
    Timing timing;
    TOKENSIEVE_RETURN_IF_ERROR(timer_.time(*plan, inputs, rows, &timing, nullptr));
    row.ms = timing.ms;
    row.spread = timing.spread;
    row.gflops = gflops(inputs.shape(rows), timing.ms);
    if (ggml_ != nullptr) TOKENSIEVE_RETURN_IF_ERROR(against_ggml(inputs, rows, &row));
    emit_(row);
    return {};
  }

  Status against_ggml(const Inputs& inputs, int64_t rows, Row* row) {
    std::vector<float> expected(inputs.out.size());
    std::vector<double> ms;
    for (int i = 0; i < std::max(1, settings_.repeats - 1); ++i) {
      const Result<double> time = ggml_->run(inputs.shape(rows), inputs.q.data(), inputs.k.data(),
                                             inputs.v.data(), expected.data());
      if (!time.ok()) return time.status();
      ms.push_back(*time);
    }
    row->error = verify::rel_l2(inputs.out, expected).error;
    if (!(row->error < kTolerance)) {
      return Status::error(StatusCode::kInternal,
                           "attend of %lld rows, head_dim %d differs from ggml's flash attention: "
                           "rel-L2 %g, allowed %g",
                           static_cast<long long>(rows), inputs.dim, row->error, kTolerance);
    }
    row->yardstick = "ggml_flash_attn";
    row->yardstick_ms = summarise(ms).ms;
    row->ratio = row->yardstick_ms / row->ms;
    return {};
  }

  // The layer's plan must give the oracle's result; at a size that the oracle can do.
  Status check_layer(const LayerKind& kind, int32_t dim, double keep, double* error) {
    const auto key = std::make_pair(std::string(kind.name), std::make_pair(dim, keep));
    if (const auto found = checked_.find(key); found != checked_.end()) {
      *error = found->second;
      return {};
    }
    const int64_t queries = kind.chunk ? kCheckLength / 2 : kCheckLength;
    Inputs inputs(kCheckLength, settings_.num_q_heads, settings_.num_kv_heads, dim);
    const SelectConfig config = layer_config(kind, keep);
    std::vector<float> results[2];
    for (int i = 0; i < 2; ++i) {
      const Result<Plan> plan = timer_.plan_for(inputs.shape(queries), config,
                                         i == 0 ? Backend::kCpu : Backend::kRef);
      if (!plan.ok()) return plan.status();
      std::vector<std::byte> workspace(workspace_bytes(*plan));
      TOKENSIEVE_RETURN_IF_ERROR(tokensieve::run(*plan, inputs.inputs(queries),
                                                 inputs.outputs(queries), workspace,
                                                 {.executor = &timer_.executor()}));
      results[i] = inputs.out;
    }
    const size_t count = static_cast<size_t>(queries) * settings_.num_q_heads * dim;
    const std::span<const float> actual(results[0].data(), count);
    const std::span<const float> expected(results[1].data(), count);
    *error = verify::rel_l2(actual, expected).error;
    if (!(*error < kTolerance)) {
      return Status::error(StatusCode::kInternal, "%s differs from the oracle: rel-L2 %g",
                           kind.name, *error);
    }
    checked_[key] = *error;
    return {};
  }

  // One sparse layer, and what its stages cost, against dense attention of the same rows.
  Status bench_layer(Inputs& inputs, const LayerKind& kind, int64_t queries, double keep) {
    double error = 0.0;
    TOKENSIEVE_RETURN_IF_ERROR(check_layer(kind, inputs.dim, keep, &error));
    const AttentionShape shape = inputs.shape(queries);
    if (!dense_ || dense_->queries != queries) {
      const Result<Plan> plan = timer_.plan_for(shape, {.enabled = false});
      if (!plan.ok()) return plan.status();
      dense_ = Dense{queries, {}};
      TOKENSIEVE_RETURN_IF_ERROR(timer_.time(*plan, inputs, queries, &dense_->timing, nullptr));
    }
    const Result<Plan> plan = timer_.plan_for(shape, layer_config(kind, keep));
    if (!plan.ok()) return plan.status();
    if (plan->path == Path::kDense) return {};  // too short for this keep ratio
    Timing timing;
    RunReport report;
    TOKENSIEVE_RETURN_IF_ERROR(timer_.time(*plan, inputs, queries, &timing, &report));

    Row row;
    row.head_dim = inputs.dim;
    row.rows = inputs.tokens;
    row.keep_ratio = keep;
    row.error = error;
    row.yardstick = "own_dense";
    row.yardstick_ms = dense_->timing.ms;
    if (settings_.wants("layer")) {
      row.bench = kind.name;
      row.ms = timing.ms;
      row.spread = timing.spread;
      row.ratio = row.yardstick_ms / row.ms;
      emit_(row);
    }
    const auto stage_ms = [&](Stage stage) {
      return static_cast<double>(report.stage_ns[static_cast<int>(stage)]) / 1e6;
    };
    row.share = true;
    row.spread = 0.0;
    if (settings_.wants("select")) {
      row.bench = std::string("score+budget+select of ") + kind.name;
      row.ms = stage_ms(Stage::kScore) + stage_ms(Stage::kBudget) + stage_ms(Stage::kSelect);
      row.ratio = row.ms / row.yardstick_ms;
      emit_(row);
    }
    if (settings_.wants("compact")) {
      row.bench = std::string("compact of ") + kind.name;
      row.ms = stage_ms(Stage::kCompact);
      row.yardstick = "attend of the same layer";
      row.yardstick_ms = stage_ms(Stage::kAttend);
      row.ratio = row.ms / row.yardstick_ms;
      emit_(row);
    }
    return {};
  }

  struct Dense {
    int64_t queries;
    Timing timing;
  };

  const Settings& settings_;
  const std::function<void(const Row&)>& emit_;
  Timer timer_;
  std::unique_ptr<GgmlFlashAttention> ggml_;
  double peak_ = 0.0;
  std::optional<Dense> dense_;
  std::map<std::pair<std::string, std::pair<int32_t, double>>, double> checked_;
};

}  // namespace

Status check_settings(const Settings& settings) {
  constexpr int64_t kMaxLength = 1 << 20;
  for (int64_t length : settings.lengths) {
    if (length < 16 || length > kMaxLength) {
      return Status::error(StatusCode::kInvalidArgument, "length %lld; allowed: 16 to %lld tokens",
                           static_cast<long long>(length), static_cast<long long>(kMaxLength));
    }
  }
  for (double keep : settings.keep_ratios) {
    if (!(keep > 0.0 && keep <= 1.0)) {
      return Status::error(StatusCode::kInvalidArgument, "keep ratio %g; allowed: (0, 1]", keep);
    }
  }
  if (settings.ubatch < 256) {
    return Status::error(StatusCode::kInvalidArgument, "ubatch %lld; allowed: at least 256",
                         static_cast<long long>(settings.ubatch));
  }
  if (settings.num_threads < 0 || settings.num_threads > 1024) {
    return Status::error(StatusCode::kInvalidArgument, "%d threads; allowed: 0 (all) to 1024",
                         settings.num_threads);
  }
  for (int32_t dim : settings.head_dims) {
    AttentionShape shape;
    shape.seqlen_q = shape.seqlen_kv = kCheckLength;
    shape.num_q_heads = settings.num_q_heads;
    shape.num_kv_heads = settings.num_kv_heads;
    shape.head_dim = dim;
    SelectConfig select;
    select.local_window = settings.local_window;
    const Result<Plan> plan = make_plan(shape, select, {.isa = settings.isa});
    if (!plan.ok()) return plan.status();
  }
  return {};
}

Status run(const Settings& settings, const std::function<void(const Row&)>& emit) {
  TOKENSIEVE_RETURN_IF_ERROR(check_settings(settings));
  return Bench(settings, emit).run();
}

}  // namespace tokensieve::bench
