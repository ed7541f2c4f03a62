// The CPU backend's entries in the backend table.
#include <cstdlib>
#include <cstring>

#include "core/backend_table.h"
#include "core/plan.h"
#include "core/work.h"
#include "cpu/context.h"

namespace tokensieve {
namespace cpu {
namespace {

// TOKENSIEVE_ISA forces an instruction set where the caller left the choice open.
Result<Isa> wanted_isa(Isa wanted) {
  if (wanted == Isa::kAuto) {
    if (const char* name = std::getenv("TOKENSIEVE_ISA"); name != nullptr && *name != '\0') {
      const Result<Isa> forced = isa_from_name(name);
      if (!forced.ok()) {
        return Status::error(StatusCode::kInvalidArgument, "TOKENSIEVE_ISA: %s",
                             forced.status().message());
      }
      wanted = *forced;
    }
  }
  if (kernels_for(wanted) != nullptr) return wanted;
  return Status::error(StatusCode::kUnsupported,
                       "instruction set %s is not compiled in or not supported by this CPU; use "
                       "auto (best here: %s)",
                       isa_name(wanted), isa_name(kernels_for(Isa::kAuto)->isa));
}

// Why tiles of `isa` cannot compute the plan's products.
ProductsReason tiles_missing(const Plan& plan, Isa isa) {
  const AttentionShape& s = plan.shape;
  if (!s.causal) return ProductsReason::kNotCausal;
  if (plan.options.products == Products::kSplit && s.kv_dtype == DType::kF32) {
    return ProductsReason::kF32Keys;
  }
  if (plan.blocks.pattern == BlockPattern::kVerticalSlash) return ProductsReason::kColumns;
  if (tile_kernels_for(isa) == nullptr) return ProductsReason::kNoTiles;
  return isa == Isa::kAmx ? ask_for_tiles() : ProductsReason::kNone;
}

Status resolve(Plan& plan) {
  const Result<Isa> wanted = wanted_isa(plan.options.isa);
  if (!wanted.ok()) return wanted.status();
  plan.options.isa = kernels_for(*wanted)->isa;
  if (plan.options.products == Products::kExact) return {};
  const Isa tiles = *wanted == Isa::kAuto ? Isa::kAmx : *wanted;
  plan.products_reason = tiles_missing(plan, tiles);
  if (plan.products_reason == ProductsReason::kNone) {
    plan.options.isa = tiles;
  } else {
    plan.options.products = Products::kExact;
  }
  return {};
}

Status prepare(Plan& plan) {
  plan.workspace = make_layout(plan, *kernels_for(plan.options.isa), nullptr).bytes;
  return {};
}

// For the stages that write none.
const AttentionOutputs kNoOutputs;

Context make_context(const Plan& plan, const AttentionInputs& in, const AttentionOutputs& out,
                     std::span<std::byte> workspace, const RunOptions& options) {
  const Kernels& kernels = *kernels_for(plan.options.isa);
  return {.plan = plan,
          .kernels = kernels,
          .tiles = plan.options.products == Products::kExact ? nullptr
                                                             : tile_kernels_for(plan.options.isa),
          .executor = executor_of(options),
          .options = options,
          .in = in,
          .out = out,
          .layout = make_layout(plan, kernels, workspace.data())};
}

Status finish(Context& context) {
  context.sum.finish(context.report);
  context.report.isa = context.tiles ? context.tiles->isa : context.kernels.isa;
  if (context.options.report != nullptr) *context.options.report = context.report;
  if (context.gather_failed) {
    return Status::error(StatusCode::kInternal, "all_gather failed: it returned an error");
  }
  if (context.cancelled.load()) {
    return Status::error(StatusCode::kCancelled, "cancelled by the caller");
  }
  return {};
}

// Kept prefix tokens of sequence b, -1 for dense; its sets become those of the layout.
int64_t choose_tokens(Context& context, int64_t b, DenseReason* reason) {
  score_sequence(context, b);
  return select_sequence(context, context.layout.indices, context.layout.keep_capacity,
                         reason);
}

int64_t take_given_tokens(Context& context, int64_t b, DenseReason* reason) {
  const Plan& plan = context.plan;
  const KeepSet& keep = context.in.keep;
  if (keep.count[b] == plan.shape.seqlen_kv) {
    *reason = DenseReason::kNothingToDrop;
    return -1;
  }
  context.layout.indices = keep.indices + b * plan.num_sets * keep.capacity;
  context.layout.keep_capacity = keep.capacity;
  return keep.count[b] - plan.suffix_len();
}

// Counts a sequence that kept `keep` prefix tokens of every set, or, at -1, ran dense.
// indices [num_sets][keep_capacity].
void add_to_report(Context& context, int64_t keep, DenseReason reason, const int32_t* indices,
                   int64_t keep_capacity, double density = 1.0) {
  const Plan& plan = context.plan;
  if (keep < 0) return context.sum.add_dense(plan, reason, density);
  int64_t far = 0;
  for (int64_t set = 0; has_far_pairs(plan.select) && set < plan.num_sets; ++set) {
    const auto count = static_cast<size_t>(keep + plan.suffix_len());
    far += far_pairs(plan, {indices + set * keep_capacity, count});
  }
  context.sum.add_sparse(plan, keep, counted_pairs(plan, keep, far), density);
}

Status run(const Plan& plan, const AttentionInputs& in, const AttentionOutputs& out,
           std::span<std::byte> workspace, const RunOptions& options) {
  Context context = make_context(plan, in, out, workspace, options);
  for (int64_t b = 0; b < plan.shape.batch && !context.cancelled; ++b) {
    DenseReason reason = plan.reason;
    int64_t keep = -1;
    if (plan.path == Path::kSparse) {
      keep = in.keep.indices != nullptr ? take_given_tokens(context, b, &reason)
                                        : choose_tokens(context, b, &reason);
    }
    if (context.cancelled) break;
    const double density = mask_sequence(context, b, keep, reason);
    if (keep >= 0) {
      attend_sparse(context, b, keep);
    } else {
      attend_dense(context, b);
    }
    add_to_report(context, keep, reason, context.layout.indices, context.layout.keep_capacity,
                  density);
  }
  return finish(context);
}

Status score(const Plan& plan, const AttentionInputs& in, float* token_score,
             std::span<std::byte> workspace, const RunOptions& options) {
  Context context = make_context(plan, in, kNoOutputs, workspace, options);
  const int64_t size = plan.shape.num_q_heads * plan.prefix_len;
  for (int64_t b = 0; b < plan.shape.batch && !context.cancelled; ++b) {
    score_sequence(context, b);
    std::memcpy(token_score + b * size, context.layout.own_score,
                static_cast<size_t>(size) * sizeof(float));
  }
  return finish(context);
}

Status select_tokens(const Plan& plan, const AttentionInputs& in, const KeepSet& keep,
                     std::span<std::byte> workspace, const RunOptions& options) {
  Context context = make_context(plan, in, kNoOutputs, workspace, options);
  for (int64_t b = 0; b < plan.shape.batch && !context.cancelled; ++b) {
    DenseReason reason;
    int32_t* indices = keep.indices + b * plan.num_sets * keep.capacity;
    score_sequence(context, b);
    const int64_t kept = select_sequence(context, indices, keep.capacity, &reason);
    keep.count[b] = kept >= 0 ? kept + plan.suffix_len() : plan.shape.seqlen_kv;
    if (!context.cancelled) add_to_report(context, kept, reason, indices, keep.capacity);
  }
  return finish(context);
}

// Its masks are written where they are wanted.
Status estimate_blocks(const Plan& plan, const AttentionInputs& in, const BlockMask& mask,
                       std::span<std::byte> workspace, const RunOptions& options) {
  Context context = make_context(plan, in, kNoOutputs, workspace, options);
  for (int64_t b = 0; b < plan.shape.batch && !context.cancelled; ++b) {
    DenseReason reason = plan.reason;
    const int64_t keep =
        plan.path == Path::kSparse ? take_given_tokens(context, b, &reason) : -1;
    context.layout.mask = mask_rows(mask, b, 0).bits;
    const double density = mask_sequence(context, b, keep, reason);
    add_to_report(context, keep, reason, context.layout.indices, context.layout.keep_capacity,
                  density);
  }
  return finish(context);
}

}  // namespace
}  // namespace cpu

extern const BackendOps kCpuOps;
const BackendOps kCpuOps = {
    .id = Backend::kCpu,
    .resolve = cpu::resolve,
    .prepare = cpu::prepare,
    .run = cpu::run,
    .score = cpu::score,
    .select_tokens = cpu::select_tokens,
    .compact = cpu::compact,
    .scatter = cpu::scatter,
    .estimate_blocks = cpu::estimate_blocks,
    .vertical_slash = true,
};

}  // namespace tokensieve
