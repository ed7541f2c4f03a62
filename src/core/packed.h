// Packed variable lengths for backends that know only equal ones.
#pragma once

#include <cstddef>
#include <span>

#include "tokensieve/attention.h"

namespace tokensieve {

// What run_packed needs of the workspace on top of the longest sequence's own.
size_t packed_scratch_bytes(const AttentionShape& shape);

// Runs every sequence of a packed plan with a plan of its own. The arguments have passed
// validate_run.
Status run_packed(const Plan& plan, const AttentionInputs& inputs, const AttentionOutputs& outputs,
                  std::span<std::byte> workspace, const RunOptions& options);

}  // namespace tokensieve
