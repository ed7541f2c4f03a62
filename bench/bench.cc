#include "bench.h"

#include <algorithm>
#include <map>
#include <span>
#include <tuple>

#include "bench_attend.h"
#include "bench_blocks.h"
#include "timer.h"
#include "verify/compare.h"

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
    if (settings_.wants("attend")) {
      TOKENSIEVE_RETURN_IF_ERROR(attend(dim, length, 1.0));
      for (double keep : settings_.keep_ratios) {
        const int64_t rows = static_cast<int64_t>(keep * static_cast<double>(length));
        if (rows < 256 || rows == length) continue;
        TOKENSIEVE_RETURN_IF_ERROR(attend(dim, rows, keep));
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
    for (const Products products : settings_.products) {
      dense_.reset();
      products_ = products;
      for (double keep : settings_.keep_ratios) {
        TOKENSIEVE_RETURN_IF_ERROR(bench_layer(inputs, kZeroLayer, length, keep));
        TOKENSIEVE_RETURN_IF_ERROR(bench_layer(inputs, kLocalLayer, length, keep));
        if (settings_.ubatch < length) {
          TOKENSIEVE_RETURN_IF_ERROR(bench_layer(inputs, kChunkLayer, settings_.ubatch, keep));
        }
      }
    }
    return {};
  }

  Status attend(int32_t dim, int64_t rows, double keep) {
    return bench_attend(settings_, timer_, ggml_.get(), dim, rows, keep, emit_);
  }

  Result<Plan> plan_of(const AttentionShape& shape, const SelectConfig& select) const {
    return timer_.plan_for(shape, select, {}, Backend::kCpu, products_);
  }

  SelectConfig layer_config(const LayerKind& kind, double keep) const {
    return settings_.layer(kind.fill, kind.share, keep);
  }

  // The layer's plan must give the oracle's result; at a size that the oracle can do.
  Status check_layer(const LayerKind& kind, int32_t dim, double keep, double* error) {
    const auto key = std::make_tuple(std::string(kind.name), products_, dim, keep);
    if (const auto found = checked_.find(key); found != checked_.end()) {
      *error = found->second;
      return {};
    }
    const int64_t queries = kind.chunk ? kCheckLength / 2 : kCheckLength;
    Inputs inputs(kCheckLength, settings_.num_q_heads, settings_.num_kv_heads, dim);
    const AttentionShape shape = inputs.shape(queries);
    const SelectConfig config = layer_config(kind, keep);
    const Result<Plan> own = plan_of(shape, config);
    if (!own.ok()) return own.status();
    const Result<Plan> oracle = timer_.plan_for(shape, config, {}, Backend::kRef);
    if (!oracle.ok()) return oracle.status();
    TOKENSIEVE_RETURN_IF_ERROR(compute(*own, inputs, queries));
    const std::vector<float> actual = inputs.out;
    TOKENSIEVE_RETURN_IF_ERROR(compute(*oracle, inputs, queries));
    const size_t count = static_cast<size_t>(queries) * settings_.num_q_heads * dim;
    *error = verify::rel_l2(std::span(actual).first(count), std::span(inputs.out).first(count))
                 .error;
    const double allowed = std::max(kTolerance, tolerance_of(products_));
    if (!(*error < allowed)) {
      return Status::error(StatusCode::kInternal,
                           "%s differs from the oracle: rel-L2 %g, allowed %g",
                           with_products(kind.name, products_).c_str(), *error, allowed);
    }
    checked_[key] = *error;
    return {};
  }

  Status compute(const Plan& plan, Inputs& inputs, int64_t queries) const {
    std::vector<std::byte> workspace(workspace_bytes(plan));
    return tokensieve::run(plan, inputs.inputs(queries), inputs.outputs(queries), workspace,
                           {.executor = &timer_.executor()});
  }

  // One sparse layer, and what its stages cost, against dense attention of the same rows.
  Status bench_layer(Inputs& inputs, const LayerKind& kind, int64_t queries, double keep) {
    double error = 0.0;
    TOKENSIEVE_RETURN_IF_ERROR(check_layer(kind, inputs.dim, keep, &error));
    const AttentionShape shape = inputs.shape(queries);
    if (!dense_ || dense_->queries != queries) {
      const Result<Plan> plan = plan_of(shape, {.enabled = false});
      if (!plan.ok()) return plan.status();
      dense_ = Dense{queries, {}};
      TOKENSIEVE_RETURN_IF_ERROR(timer_.time(*plan, inputs, queries, &dense_->timing, nullptr));
    }
    const Result<Plan> plan = plan_of(shape, layer_config(kind, keep));
    if (!plan.ok()) return plan.status();
    if (plan->path == Path::kDense) return {};  // too short for this keep ratio
    Timing timing;
    RunReport report;
    TOKENSIEVE_RETURN_IF_ERROR(timer_.time(*plan, inputs, queries, &timing, &report));

    const std::string name = with_products(kind.name, products_);
    Row row;
    row.head_dim = inputs.dim;
    row.rows = inputs.tokens;
    row.keep_ratio = keep;
    row.error = error;
    row.yardstick = "own_dense";
    row.yardstick_ms = dense_->timing.ms;
    if (settings_.wants("layer")) {
      row.bench = name;
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
      row.bench = "score+budget+select of " + name;
      row.ms = stage_ms(Stage::kScore) + stage_ms(Stage::kBudget) + stage_ms(Stage::kSelect);
      row.ratio = row.ms / row.yardstick_ms;
      emit_(row);
    }
    if (settings_.wants("compact")) {
      row.bench = "compact of " + name;
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
  Products products_ = Products::kExact;  // of the layers that are being measured
  std::map<std::tuple<std::string, Products, int32_t, double>, double> checked_;
};

AttentionShape check_shape(const Settings& settings, int32_t dim) {
  return {.seqlen_q = kCheckLength,
          .seqlen_kv = kCheckLength,
          .num_q_heads = settings.num_q_heads,
          .num_kv_heads = settings.num_kv_heads,
          .head_dim = dim,
          .kv_dtype = DType::kF16};
}

Status check_plan(const Settings& settings, int32_t dim, Products products) {
  SelectConfig select;
  select.local_window = settings.local_window;
  const Result<Plan> plan = make_plan(check_shape(settings, dim), select,
                                      {.isa = settings.isa, .products = products});
  if (!plan.ok() || plan->products_reason == ProductsReason::kNone) return plan.status();
  return Status::error(StatusCode::kUnsupported,
                       "products %s cannot be measured here: %s; leave the option out for what "
                       "this CPU has",
                       name_of(products), products_reason_text(plan->products_reason));
}

}  // namespace

std::vector<Products> available_products(const Settings& settings) {
  std::vector<Products> available;
  for (const Products products : {Products::kExact, Products::kSplit, Products::kBf16}) {
    const int32_t dim = settings.head_dims.empty() ? 64 : settings.head_dims.front();
    if (check_plan(settings, dim, products).ok()) available.push_back(products);
  }
  return available;
}

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
  for (const int32_t dim : settings.head_dims) {
    TOKENSIEVE_RETURN_IF_ERROR(check_plan(settings, dim, Products::kExact));
    for (const Products products : settings.products) {
      TOKENSIEVE_RETURN_IF_ERROR(check_plan(settings, dim, products));
    }
  }
  return {};
}

Status run(const Settings& settings, const std::function<void(const Row&)>& emit) {
  TOKENSIEVE_RETURN_IF_ERROR(check_settings(settings));
  Settings resolved = settings;
  if (resolved.products.empty()) resolved.products = available_products(settings);
  return Bench(resolved, emit).run();
}

}  // namespace tokensieve::bench
