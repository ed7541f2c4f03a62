// Computes one FLASH_ATTN_EXT node through the library. State of one ggml backend instance, i.e.
// of one llama context: several may exist, each computes on one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hook.h"
#include "mask.h"
#include "node.h"
#include "policy.h"
#include "settings.h"
#include "stats.h"
#include "tokensieve/tokensieve.h"

namespace tokensieve::ggml {

// Uninitialised memory that only grows; growing drops its contents.
class Scratch {
 public:
  std::span<std::byte> bytes(size_t count);  // aligned to 64

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};

class Computer {
 public:
  Computer();

  void set_num_threads(int num_threads);
  void set_abort_callback(ggml_abort_callback callback, void* data);
  bool should_abort() const { return abort_ != nullptr && abort_(abort_data_); }

  // kCancelled when the abort callback fired. May throw std::bad_alloc.
  Status compute(const Node& node, const Settings& settings);

 private:
  Status run_segment(const Node& node, int64_t stream, const MaskSegment& segment,
                     const Settings& settings, NodeReport& report);
  Status run_causal(const Node& node, int64_t stream, const MaskSegment& segment, Choice choice,
                    const Settings& settings, NodeReport& report);
  Status run_biased(const Node& node, int64_t stream, const MaskSegment& segment,
                    const Choice& choice, const Settings& settings, NodeReport& report);
  // Shape and inputs of the segment's cells; unpacks K and V where that is needed.
  AttentionShape shape_of(const Node& node, const MaskSegment& segment) const;
  AttentionInputs inputs_of(const Node& node, int64_t stream, const MaskSegment& segment);
  TensorView unpack(const Node& node, const ggml_tensor* source, int64_t stream,
                    std::span<const int32_t> cells, Scratch& scratch);
  // Where the plan is sparse, the host's hook (if any) has its say in between.
  Status plan_and_run(int32_t layer, const AttentionShape& shape, const Choice& choice,
                      const Settings& settings, AttentionInputs inputs,
                      const AttentionOutputs& outputs, RunReport& report);
  std::span<const int32_t> cells_of(const MaskSegment& segment) const;

  std::unique_ptr<Executor> executor_;
  ggml_abort_callback abort_ = nullptr;
  void* abort_data_ = nullptr;
  MaskAnalysis analysis_;
  std::vector<float> slopes_;
  Scratch workspace_;
  Scratch unpacked_k_;
  Scratch unpacked_v_;
  SelectHook hook_;
};

}  // namespace tokensieve::ggml
