// Goldens of block masks (tests/golden/README.md): which tiles the estimators chose for inputs that
// the file holds or that its hash makes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tokensieve/attention.h"
#include "verify/block_inputs.h"
#include "verify/checks.h"

namespace tokensieve::verify {

// What one estimator chose.
struct BlockEntry {
  std::string name;         // as in the file
  std::string not_covered;  // why it is not checked; empty: it is
  BlockConfig blocks;
  bool on_tokens = false;     // over the golden's selected tokens
  std::vector<float> scores;  // kScores: [masks, tiles, tiles]

  int64_t tiles = 0;  // of rows and of keys
  // [masks, tiles, tiles]: 1 where visited, and how much of its row's mass a tile lies from its
  // threshold (infinity: unknown or forced).
  std::vector<uint8_t> expected;
  std::vector<double> margin;
  double density = -1;  // that a report must say, columns included; negative: unknown
};

struct BlockGolden {
  std::string name;
  BlockInputs inputs;
  bool exact = false;           // masks of exact arithmetic; else of the official bf16 code
  std::vector<int32_t> tokens;  // [num_q_heads, kept], ascending; may be empty
  int64_t kept = 0;
  std::vector<BlockEntry> entries;
  std::vector<Check> checks;  // of the file itself

  Result<Plan> plan_of(const BlockEntry& entry, const PlanOptions& options) const;
};

bool is_block_golden(const std::string& path);

// kNotFound, kDataError.
Result<BlockGolden> load_block_golden(const std::string& path);

}  // namespace tokensieve::verify
