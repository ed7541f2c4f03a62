#include "drift.h"

#include <ggml-backend.h>
#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/prefill_watch.h"
#include "common/terminal.h"

namespace tokensieve::cli {
namespace {

// Logits of every token are asked for, else the last layer's output holds one row; a chunk of
// them stays small (n_vocab floats a token).
constexpr int32_t kChunk = 512;

// Sums the relative change of every token at every layer.
class DriftWatch : public NodeWatcher {
 public:
  explicit DriftWatch(int32_t num_layers) : sums_(static_cast<size_t>(num_layers), 0.0) {}

  bool wants(const ggml_tensor& node) override {
    return layer_output(node) >= 0 || is_embedding(node);
  }

  void computed(ggml_tensor& node) override {
    const int32_t layer = layer_output(node);
    read(node, current_);
    // "embd" may be a view or be scaled later; the last one before layer 0 counts.
    if (layer < 0) {
      previous_ = current_;
      return;
    }
    if (layer >= static_cast<int32_t>(sums_.size()) || current_.size() != previous_.size()) {
      complete_ = false;
      return;
    }
    add(static_cast<size_t>(layer), static_cast<size_t>(node.ne[0]));
    std::swap(previous_, current_);
    if (layer == 0) tokens_ += node.ne[1];
  }

  // False when a layer's input or output was not seen in full.
  bool complete() const { return complete_ && tokens_ > 0; }
  const std::vector<double>& sums() const { return sums_; }

 private:
  static bool is_embedding(const ggml_tensor& node) {
    return std::strcmp(node.name, "embd") == 0 || std::strcmp(node.name, "inp_scaled") == 0;
  }

  static void read(const ggml_tensor& node, std::vector<float>& values) {
    values.resize(static_cast<size_t>(ggml_nelements(&node)));
    ggml_backend_tensor_get(&node, values.data(), 0, values.size() * sizeof(float));
  }

  void add(size_t layer, size_t width) {
    for (size_t row = 0; row + width <= current_.size(); row += width) {
      double change = 0, size = 0;
      for (size_t i = row; i < row + width; ++i) {
        const double before = previous_[i], difference = current_[i] - before;
        change += difference * difference;
        size += before * before;
      }
      sums_[layer] += std::sqrt(change) / (std::sqrt(size) + 1e-8);
    }
  }

  std::vector<double> sums_;
  std::vector<float> previous_, current_;
  int64_t tokens_ = 0;
  bool complete_ = true;
};

}  // namespace

Result<std::vector<double>> measure_drift(const LlamaModel& model, const std::string& text,
                                          int32_t max_tokens) {
  Tokens tokens = model.tokenize(text, false);
  const int32_t limit = std::min(max_tokens, model.max_context());
  if (tokens.size() > static_cast<size_t>(limit)) tokens.resize(static_cast<size_t>(limit));
  if (tokens.size() < 64) {
    return Status::error(StatusCode::kInvalidArgument,
                         "the text has %zu tokens; at least 64 are needed, a few thousand are good",
                         tokens.size());
  }
  const auto total = static_cast<int32_t>(tokens.size());
  Result<LlamaContext> created =
      LlamaContext::create(model, {.context = total, .ubatch = kChunk, .outputs = kChunk});
  if (!created.ok()) return created.status();
  LlamaContext& context = created.value();
  DriftWatch watch(model.num_layers());
  context.watch(&watch);
  Progress progress("measuring drift", total, "tokens");
  TOKENSIEVE_RETURN_IF_ERROR(context.prefill(tokens, /*all_outputs=*/true, [&](int32_t done) {
    progress.update(std::min(1.0, static_cast<double>(done) * kChunk / total));
  }));
  progress.finish();
  std::vector<double> drift = watch.sums();
  double sum = 0;
  for (const double d : drift) sum += d;
  if (!watch.complete() || !(sum > 0) || !std::isfinite(sum)) {
    return Status::error(StatusCode::kUnsupported,
                         "the hidden states of %s cannot be read (no \"l_out\" node for every "
                         "layer); give the sparse layers with a hand-written profile",
                         model.source().name.c_str());
  }
  for (double& d : drift) d /= sum;
  return drift;
}

std::vector<int32_t> low_drift_layers(const std::vector<double>& drift,
                                      const std::vector<int32_t>& candidates, double delta) {
  if (drift.empty()) return {};
  std::vector<double> sorted = {drift[0]};
  for (const int32_t l : candidates) sorted.push_back(drift[static_cast<size_t>(l)]);
  std::sort(sorted.begin(), sorted.end());
  // Linear interpolation between order statistics, as numpy and torch do.
  const double at = std::clamp(delta, 0.0, 1.0) * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double quantile =
      sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
  std::vector<int32_t> layers;
  for (const int32_t l : candidates) {
    if (drift[static_cast<size_t>(l)] <= quantile) layers.push_back(l);
  }
  return layers;
}

}  // namespace tokensieve::cli
