// Every shape, dtype, stride, parameter and alias check of the library, in one place.
#pragma once

#include <cstddef>
#include <span>

#include "tokensieve/attention.h"

namespace tokensieve {

Status validate_shape(const AttentionShape& shape);
Status validate_select(const SelectConfig& select);
// Whether `select` is defined for the queries of a call; of a packed one: sequence by sequence.
Status validate_queries(const AttentionShape& shape, const SelectConfig& select);
Status validate_options(const AttentionShape& shape, const PlanOptions& options);
// Also whether block masks are defined for the call.
Status validate_blocks(const AttentionShape& shape, const SelectConfig& select,
                       const BlockConfig& blocks, const PlanOptions& options);

// The pointers, shapes, dtypes, strides and overlaps of a run.
Status validate_run(const Plan& plan, const AttentionInputs& inputs,
                    const AttentionOutputs& outputs, std::span<std::byte> workspace,
                    const RunOptions& options);
Status validate_select_tokens(const Plan& plan, const AttentionInputs& inputs,
                              const KeepSet& keep, std::span<std::byte> workspace,
                              const RunOptions& options);
Status validate_estimate(const Plan& plan, const AttentionInputs& inputs, const BlockMask& mask,
                         std::span<std::byte> workspace, const RunOptions& options);
Status validate_compact(const Plan& plan, const TensorView& x, const KeepSet& keep,
                        const TensorView& compacted);
Status validate_scatter(const Plan& plan, const TensorView& compacted, const KeepSet& keep,
                        const TensorView& out);

}  // namespace tokensieve
