// What `tokensieve verify` holds against a golden of block masks.
#pragma once

#include <cstdint>
#include <vector>

#include "verify/block_golden.h"
#include "verify/checks.h"

namespace tokensieve::verify {

// The mask that a backend estimates where the golden holds one: the same tiles, but for those that
// the arithmetic of the official code may decide (block_entries.h). kUnsupported: the backend does
// not have the estimator; every other failure is a failed check.
Result<Check> check_blocks(const BlockGolden& golden, const BlockEntry& entry, Backend backend,
                           Isa isa, Executor& executor);

// Host memory of a call of estimate_blocks, and what it wrote.
struct BlockCall {
  BlockCall(const BlockGolden& golden, const BlockEntry& entry, const Plan& plan);
  AttentionInputs inputs();
  BlockMask mask() { return {bits.data(), plan.row_tiles, plan.mask_words, plan.num_masks}; }

  const BlockGolden& golden;
  const BlockEntry& entry;
  const Plan& plan;
  std::vector<int32_t> indices;
  int64_t count = 0;
  std::vector<uint32_t> bits;  // all ones before
  RunReport report;            // not of the device's
};

// On copies in device memory.
Status estimate_on_cuda(BlockCall& call);

}  // namespace tokensieve::verify
