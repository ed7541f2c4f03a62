// What a prefill run reports while it runs: progress, memory, and stock attention's time.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "common/llama_session.h"

namespace tokensieve::cli {

class PrefillWatch : public NodeWatcher {
 public:
  struct Options {
    int32_t num_layers = 0;
    int32_t num_ubatches = 1;
    // Also time FLASH_ATTN_EXT nodes (stock llama.cpp has no timer of its own).
    bool time_attention = false;
    std::function<void(double fraction)> on_progress;
  };

  explicit PrefillWatch(Options options);

  bool wants(const ggml_tensor& node) override;
  void computed(ggml_tensor& node) override;

  double attention_ms() const { return attention_ms_; }
  // Most anonymous memory above the level when this object was made.
  int64_t peak_memory_bytes() const { return peak_memory_ - base_memory_; }

 private:
  using Clock = std::chrono::steady_clock;

  Options options_;
  int64_t layers_done_ = 0;
  int64_t base_memory_;
  int64_t peak_memory_;
  double attention_ms_ = 0;
  Clock::time_point last_node_;
};

// The layer of a node called "l_out-7" (the hidden state after a layer), or -1.
int32_t layer_output(const ggml_tensor& node);

}  // namespace tokensieve::cli
