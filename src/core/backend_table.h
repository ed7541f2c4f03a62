// The table through which core reaches the backends. CMake decides which boxes are compiled in;
// core names none of their symbols except through here.
#pragma once

#include <cstddef>
#include <span>

#include "tokensieve/attention.h"

namespace tokensieve {

struct BackendOps {
  Backend id;

  // Whether this machine can run it; null: always.
  bool (*usable)() = nullptr;

  // Pointers of calls are device memory, which the host must not read.
  bool device_memory = false;

  // Takes packed plans itself; otherwise core runs their sequences one by one.
  bool packed = false;

  // Resolves isa and products, with products_reason; null: products are exact.
  Status (*resolve)(Plan& plan) = nullptr;

  // Resolves what else the backend chooses and fills plan.workspace. kUnsupported if it cannot.
  Status (*prepare)(Plan& plan);

  Status (*run)(const Plan&, const AttentionInputs&, const AttentionOutputs&,
                std::span<std::byte> workspace, const RunOptions&);

  // Stage score: token_score f32 [batch, num_q_heads, prefix_len].
  Status (*score)(const Plan&, const AttentionInputs&, float* token_score,
                  std::span<std::byte> workspace, const RunOptions&);

  // Stages score, budget, select.
  Status (*select_tokens)(const Plan&, const AttentionInputs&, const KeepSet&,
                          std::span<std::byte> workspace, const RunOptions&);

  Status (*compact)(const Plan&, const TensorView& x, const KeepSet&, const TensorView& compacted,
                    const RunOptions&);
  Status (*scatter)(const Plan&, const TensorView& compacted, const KeepSet&,
                    const TensorView& out, const RunOptions&);

  // Stage estimate; also of kScores.
  Status (*estimate_blocks)(const Plan&, const AttentionInputs&, const BlockMask&,
                            std::span<std::byte> workspace, const RunOptions&);

  // kVerticalSlash: estimates it, and attends to the single columns beside its masks.
  bool vertical_slash = false;

  // Null: the report of run() is complete.
  Status (*read_report)(const Plan&, std::span<std::byte> workspace, void* stream,
                        RunReport&) = nullptr;
};

// Null if the backend is not compiled in. kAuto gives the default.
const BackendOps* backend_ops(Backend backend);

}  // namespace tokensieve
