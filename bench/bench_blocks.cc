#include "bench_blocks.h"

#include <string>
#include <vector>

#include "tokensieve/names.h"
#include "verify/compare.h"

namespace tokensieve::bench {
namespace {

struct Layer {
  std::string name;
  double keep = 1.0;
  SelectConfig select;
  BlockConfig blocks;
};

struct Timed {
  Timing timing;
  RunReport report;

  double stage_ms(Stage stage) const {
    return static_cast<double>(report.stage_ns[static_cast<int>(stage)]) / 1e6;
  }
};

// Memory of a plan's sets and masks.
struct Chosen {
  explicit Chosen(const Plan& plan)
      : indices(static_cast<size_t>(plan.num_sets * plan.keep_capacity())),
        bits(static_cast<size_t>(plan.num_masks * plan.row_tiles * plan.mask_words)) {
    keep = {indices.data(), plan.keep_capacity(), &count};
    mask = {bits.data(), plan.row_tiles, plan.mask_words, plan.num_masks};
  }
  std::vector<int32_t> indices;
  int64_t count = 0;
  std::vector<uint32_t> bits;
  KeepSet keep;
  BlockMask mask;
};

class BlockBench {
 public:
  BlockBench(const Settings& settings, const Timer& timer,
             const std::function<void(const Row&)>& emit)
      : settings_(settings),
        timer_(timer),
        emit_(emit),
        pattern_(name_of(settings.blocks.pattern)) {}

  Status run(Inputs& inputs) {
    SelectConfig off{.enabled = false, .dense_policy = DensePolicy::kNever};
    Timed dense, alone;
    TOKENSIEVE_RETURN_IF_ERROR(time({"dense", 1.0, off, {}}, inputs, &dense));
    const Layer blocks{"blocks_" + pattern_, 1.0, off, settings_.blocks};
    TOKENSIEVE_RETURN_IF_ERROR(time(blocks, inputs, &alone));
    TOKENSIEVE_RETURN_IF_ERROR(emit_layer(blocks, inputs, alone, {{"own_dense", &dense}}));
    for (const double keep : settings_.keep_ratios) {
      for (const Fill fill : {Fill::kZero, Fill::kLocal}) {
        const Share share = fill == Fill::kZero ? Share::kHead : Share::kLayer;
        Layer tokens{std::string("layer_") + name_of(fill), keep,
                     settings_.layer(fill, share, keep), {}};
        Timed selected, both;
        TOKENSIEVE_RETURN_IF_ERROR(time(tokens, inputs, &selected));
        const Layer composed{tokens.name + "_" + pattern_, keep, tokens.select, settings_.blocks};
        TOKENSIEVE_RETURN_IF_ERROR(time(composed, inputs, &both));
        TOKENSIEVE_RETURN_IF_ERROR(emit_layer(
            composed, inputs, both,
            {{"own_dense", &dense}, {tokens.name, &selected}, {blocks.name, &alone}}));
      }
    }
    return {};
  }

 private:
  Status time(const Layer& layer, Inputs& inputs, Timed* timed) const {
    const Result<Plan> plan =
        timer_.plan_for(inputs.shape(inputs.tokens), layer.select, layer.blocks);
    if (!plan.ok()) return plan.status();
    return timer_.time(*plan, inputs, inputs.tokens, &timed->timing, &timed->report);
  }

  Status emit_layer(const Layer& layer, const Inputs& inputs, const Timed& timed,
                    const std::vector<std::pair<std::string, const Timed*>>& yardsticks) const {
    Row row{.bench = layer.name,
            .head_dim = inputs.dim,
            .rows = inputs.tokens,
            .keep_ratio = layer.keep,
            .block_density = timed.report.block_density,
            .ms = timed.timing.ms,
            .spread = timed.timing.spread};
    TOKENSIEVE_RETURN_IF_ERROR(check(layer, inputs.dim, &row.error));
    for (const auto& [name, other] : yardsticks) {
      row.yardstick = name;
      row.yardstick_ms = other->timing.ms;
      row.ratio = row.yardstick_ms / row.ms;
      emit_(row);
    }
    row.share = true;
    row.spread = 0.0;
    row.yardstick = "own_dense";
    row.yardstick_ms = yardsticks.front().second->timing.ms;
    for (const Stage stage : {Stage::kEstimate, Stage::kAttend}) {
      row.bench = std::string(stage_name(stage)) + " of " + layer.name;
      row.ms = timed.stage_ms(stage);
      row.ratio = row.ms / row.yardstick_ms;
      emit_(row);
    }
    return {};
  }

  // The oracle attends over the same tokens and tiles, at a size that it can do. Masks do not hold
  // the columns of vertical_slash: it estimates those itself.
  Status check(const Layer& layer, int32_t dim, double* error) const {
    Inputs inputs(kCheckLength, settings_.num_q_heads, settings_.num_kv_heads, dim);
    const AttentionShape shape = inputs.shape(kCheckLength);
    const Result<Plan> plan = timer_.plan_for(shape, layer.select, layer.blocks);
    if (!plan.ok()) return plan.status();
    const bool columns = plan->blocks.pattern == BlockPattern::kVerticalSlash;
    const BlockConfig masks =
        columns ? layer.blocks
                : BlockConfig{.pattern = BlockPattern::kGiven, .share = plan->blocks.share};
    const Result<Plan> given = timer_.plan_for(shape, layer.select, masks, Backend::kRef);
    if (!given.ok()) return given.status();
    Chosen chosen(*plan);
    std::vector<std::byte> workspace(std::max(workspace_bytes(*plan), workspace_bytes(*given)));
    const RunOptions options{.executor = &timer_.executor()};
    AttentionInputs in = inputs.inputs(kCheckLength);
    if (plan->path == Path::kSparse) {
      TOKENSIEVE_RETURN_IF_ERROR(select_tokens(*plan, in, chosen.keep, workspace, options));
      in.keep = chosen.keep;
    }
    TOKENSIEVE_RETURN_IF_ERROR(estimate_blocks(*plan, in, chosen.mask, workspace, options));
    const AttentionOutputs out = inputs.outputs(kCheckLength);
    TOKENSIEVE_RETURN_IF_ERROR(tokensieve::run(*plan, in, out, workspace, options));
    const std::vector<float> actual = inputs.out;
    if (!columns) in.block_mask = chosen.mask;
    TOKENSIEVE_RETURN_IF_ERROR(tokensieve::run(*given, in, out, workspace, options));
    *error = verify::rel_l2(actual, inputs.out).error;
    if (*error < kTolerance) return {};
    return Status::error(StatusCode::kInternal, "%s differs from the oracle: rel-L2 %g",
                         layer.name.c_str(), *error);
  }

  const Settings& settings_;
  const Timer& timer_;
  const std::function<void(const Row&)>& emit_;
  std::string pattern_;
};

}  // namespace

Status bench_blocks(const Settings& settings, const Timer& timer, Inputs& inputs,
                    const std::function<void(const Row&)>& emit) {
  return BlockBench(settings, timer, emit).run(inputs);
}

}  // namespace tokensieve::bench
