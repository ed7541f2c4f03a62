#include "common/prefill_watch.h"

#include <ggml.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "common/system.h"

namespace tokensieve::cli {

int32_t layer_output(const ggml_tensor& node) {
  constexpr std::string_view kPrefix = "l_out-";
  const std::string_view name = node.name;
  return name.starts_with(kPrefix) ? std::atoi(name.data() + kPrefix.size()) : -1;
}

PrefillWatch::PrefillWatch(Options options)
    : options_(std::move(options)),
      base_memory_(anonymous_memory_bytes()),
      peak_memory_(base_memory_),
      last_node_(Clock::now()) {}

// The scheduler computes everything up to a wanted node in one go. The permuted view before an
// attention node is wanted too, so that the interval between the two holds attention alone and
// not the projections before it. Views cost no compute.
bool PrefillWatch::wants(const ggml_tensor& node) {
  if (options_.time_attention &&
      (node.op == GGML_OP_FLASH_ATTN_EXT || node.op == GGML_OP_PERMUTE)) {
    return true;
  }
  return layer_output(node) >= 0;
}

void PrefillWatch::computed(ggml_tensor& node) {
  const Clock::time_point now = Clock::now();
  if (node.op == GGML_OP_FLASH_ATTN_EXT) {
    attention_ms_ += std::chrono::duration<double, std::milli>(now - last_node_).count();
  }
  if (layer_output(node) >= 0) {
    ++layers_done_;
    peak_memory_ = std::max(peak_memory_, anonymous_memory_bytes());
    if (options_.on_progress) {
      const double all = static_cast<double>(options_.num_layers) * options_.num_ubatches;
      options_.on_progress(std::min(1.0, static_cast<double>(layers_done_) / all));
    }
  }
  last_node_ = Clock::now();
}

}  // namespace tokensieve::cli
