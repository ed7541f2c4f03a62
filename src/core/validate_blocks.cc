// Block masks: their parameters, and what a call gives of them.
#include "core/tiles.h"
#include "core/validate.h"
#include "core/validate_parts.h"
#include "tokensieve/names.h"

namespace tokensieve {
namespace {

// Masks or scores over selected tokens are of the compact tiles, which only given sets make known.
Status check_given_first(const Plan& plan, const AttentionInputs& in, const char* name) {
  if (plan.path == Path::kDense || in.keep.indices != nullptr) return {};
  return Status::error(StatusCode::kInvalidArgument,
                       "%s was given to a plan that selects tokens, without inputs.keep: its tiles "
                       "are those of the kept tokens; call select_tokens first and give both",
                       name);
}

Status check_mask(const Plan& plan, const char* name, const BlockMask& mask) {
  if (mask.bits == nullptr) {
    return Status::error(StatusCode::kInvalidArgument, "%s.bits is null", name);
  }
  if (reinterpret_cast<uintptr_t>(mask.bits) % alignof(uint32_t) != 0) {
    return Status::error(StatusCode::kInvalidArgument, "%s.bits is not aligned to 4 bytes", name);
  }
  if (mask.num_masks == plan.num_masks && mask.row_tiles == plan.row_tiles &&
      mask.words == plan.mask_words) {
    return {};
  }
  return Status::error(StatusCode::kInvalidArgument,
                       "%s has %d masks of %lld row tiles x %lld words; the plan needs %d x %lld x "
                       "%lld (plan.num_masks, row_tiles, mask_words)",
                       name, mask.num_masks, (long long)mask.row_tiles, (long long)mask.words,
                       plan.num_masks, (long long)plan.row_tiles, (long long)plan.mask_words);
}

// One value outside a field's range, on the host.
Status check_thresholds(const Plan& plan, const float* thresholds) {
  if (thresholds == nullptr || on_device(plan)) return {};
  for (int32_t i = 0; i < plan.num_masks; ++i) {
    if (thresholds[i] >= 0 && thresholds[i] <= 1) continue;
    return Status::error(StatusCode::kInvalidArgument,
                         "block_thresholds[%d] is %g; allowed: [0, 1]", i, thresholds[i]);
  }
  return {};
}

Status check_sizes(const Plan& plan, const int32_t* sizes) {
  if (sizes == nullptr) return {};
  if (plan.blocks.slash_ratio > 0) {
    return Status::error(StatusCode::kInvalidArgument,
                         "block_sizes was given and blocks.slash_ratio is %g; make the plan with "
                         "slash_ratio 0",
                         plan.blocks.slash_ratio);
  }
  for (int32_t i = 0; i < plan.shape.num_q_heads; ++i) {
    const int32_t* own = sizes + 2 * i;
    if (own[0] < 0 || own[1] < 0) {
      return Status::error(StatusCode::kInvalidArgument,
                           "block_sizes[%d] is {%d, %d}; allowed: >= 0", i, own[0], own[1]);
    }
    if (own[0] > plan.blocks.verticals) {
      return Status::error(StatusCode::kInvalidArgument,
                           "block_sizes[%d] has %d verticals; allowed: at most blocks.verticals of "
                           "the plan, which is %lld",
                           i, own[0], (long long)plan.blocks.verticals);
    }
  }
  return {};
}

Status unexpected(const char* name, const Plan& plan) {
  return Status::error(StatusCode::kInvalidArgument,
                       "%s was given, but the plan's block pattern is %s; make the plan with the "
                       "pattern that reads it",
                       name, name_of(plan.blocks.pattern));
}

}  // namespace

Status validate_blocks(const AttentionShape& shape, const SelectConfig& select,
                       const BlockConfig& c, const PlanOptions& options) {
  if (c.pattern == BlockPattern::kNone) return {};
  TOKENSIEVE_RETURN_IF_ERROR(
      check_fields(c, "blocks.", [&](const BlockField& about) { return about.used_by(c); }));
  if (!shape.causal) {
    return Status::error(StatusCode::kInvalidArgument,
                         "blocks.pattern is %s and causal is false; block masks are for causal "
                         "attention without a bias",
                         name_of(c.pattern));
  }
  // Keeps bytes of masks and scores below 2^60.
  constexpr double kMostTiles = 0x1p58;
  const double tiles = static_cast<double>(shape.batch) * shape.num_q_heads *
                       static_cast<double>(tiles_of(shape.seqlen_q)) *
                       static_cast<double>(tiles_of(shape.seqlen_kv));
  if (tiles > kMostTiles) {
    return Status::error(StatusCode::kInvalidArgument,
                         "block masks of batch %lld, %d heads and %lld x %lld tokens have %g "
                         "tiles; allowed: at most 2^58",
                         (long long)shape.batch, shape.num_q_heads, (long long)shape.seqlen_q,
                         (long long)shape.seqlen_kv, tiles);
  }
  if (select.enabled && select.queries == Queries::kAll) {
    return Status::error(StatusCode::kUnsupported,
                         "blocks.pattern is %s with queries = all, whose rows are not those of the "
                         "kept keys; use queries = kept with local fill",
                         name_of(c.pattern));
  }
  if (c.pattern == BlockPattern::kScores && shape.packed) {
    return Status::error(StatusCode::kUnsupported,
                         "blocks.pattern is scores and the sequences are packed; run them one by "
                         "one, or give a mask");
  }
  if (c.share == Share::kLayer && options.num_ranks > 1 && c.pattern == BlockPattern::kPooled) {
    return Status::error(StatusCode::kUnsupported,
                         "blocks.share is layer and the heads are split over %d ranks; use kv or "
                         "head",
                         options.num_ranks);
  }
  return {};
}

Status check_blocks(const Plan& plan, const AttentionInputs& in) {
  const BlockPattern pattern = plan.blocks.pattern;
  const bool takes_lines = pattern == BlockPattern::kVerticalSlash;
  if (in.block_mask.bits != nullptr && pattern != BlockPattern::kGiven) {
    return unexpected("block_mask", plan);
  }
  if (in.block_scores != nullptr && pattern != BlockPattern::kScores) {
    return unexpected("block_scores", plan);
  }
  // A plan whose estimator cannot win has no pattern any more, nor masks.
  if (in.block_thresholds != nullptr && (pattern == BlockPattern::kGiven || takes_lines)) {
    return unexpected("block_thresholds", plan);
  }
  if (in.block_sizes != nullptr && pattern != BlockPattern::kNone && !takes_lines) {
    return unexpected("block_sizes", plan);
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_thresholds(plan, in.block_thresholds));
  if (takes_lines) return check_sizes(plan, in.block_sizes);
  if (pattern == BlockPattern::kGiven) {
    TOKENSIEVE_RETURN_IF_ERROR(check_given_first(plan, in, "block_mask"));
    return check_mask(plan, "block_mask", in.block_mask);
  }
  if (pattern == BlockPattern::kScores) {
    if (in.block_scores == nullptr) {
      return Status::error(StatusCode::kInvalidArgument,
                           "block_scores is null; the plan's block pattern is scores");
    }
    return check_given_first(plan, in, "block_scores");
  }
  return {};
}

size_t mask_bytes(const Plan& plan) {
  return static_cast<size_t>(plan.shape.batch * plan.num_masks * plan.row_tiles *
                             plan.mask_words) *
         sizeof(uint32_t);
}

size_t block_score_bytes(const Plan& plan) {
  return static_cast<size_t>(plan.shape.batch * plan.num_masks * plan.row_tiles *
                             tiles_of(plan.shape.seqlen_kv)) *
         sizeof(float);
}

Status validate_estimate(const Plan& plan, const AttentionInputs& in, const BlockMask& mask,
                         std::span<std::byte> workspace, const RunOptions& options) {
  const AttentionShape& s = plan.shape;
  TOKENSIEVE_RETURN_IF_ERROR(check_q_and_k(plan, in));
  TOKENSIEVE_RETURN_IF_ERROR(check_mask(plan, "mask", mask));
  TOKENSIEVE_RETURN_IF_ERROR(check_given(plan, in));
  TOKENSIEVE_RETURN_IF_ERROR(check_given_first(plan, in, "estimate_blocks"));
  TOKENSIEVE_RETURN_IF_ERROR(check_blocks(plan, in));
  TOKENSIEVE_RETURN_IF_ERROR(check_workspace(plan, workspace, options));
  TOKENSIEVE_RETURN_IF_ERROR(check_disjoint(
      {{"mask.bits", mask.bits, mask_bytes(plan)},
       {"workspace", workspace.data(), plan.workspace}},
      {{"q", in.q},
       {"k", in.k},
       {"block_scores", in.block_scores, block_score_bytes(plan)},
       {"block_thresholds", in.block_thresholds, static_cast<size_t>(plan.num_masks) * 4},
       {"block_sizes", in.block_sizes, static_cast<size_t>(s.num_q_heads) * 8},
       {"keep.indices", in.keep.indices,
        static_cast<size_t>(s.batch * plan.num_sets * in.keep.capacity) * 4}}));
  return check_kv_indices(plan, in.kv_indices, in.k.shape[1]);
}

}  // namespace tokensieve
