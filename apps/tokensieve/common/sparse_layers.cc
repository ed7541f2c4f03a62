#include "common/sparse_layers.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/profiles.h"
#include "common/terminal.h"

namespace tokensieve::cli {
namespace {

// More rows than llama.cpp's probe of flash attention, or the plug-in leaves them alone; a prime,
// so that no boundary of chunked attention falls between two ubatches, where it cannot be seen.
constexpr int32_t kProbeUbatch = 293;

// Reads more tokens than the window holds, which tokens does not matter.
Status read_past_window(const LlamaModel& model, Plugin& plugin) {
  const int32_t window = llama_model_n_swa(model.get());
  const int32_t ubatches = (window + kProbeUbatch) / kProbeUbatch;
  const int32_t total = std::min(ubatches * kProbeUbatch, model.max_context());
  Tokens tokens(static_cast<size_t>(total));
  const int32_t words = std::min(llama_vocab_n_tokens(model.vocab()), 1000);
  for (int32_t i = 0; i < total; ++i) tokens[static_cast<size_t>(i)] = i % words;

  TOKENSIEVE_RETURN_IF_ERROR(plugin.configure(TOKENSIEVE_GGML_DENSE, nullptr));
  Result<LlamaContext> context =
      LlamaContext::create(model, {.context = total, .ubatch = kProbeUbatch});
  if (!context.ok()) return context.status();
  plugin.reset_stats();
  Progress progress("looking at the layers", total, "tokens");
  return context.value().prefill(tokens, /*all_outputs=*/false, [&](int32_t done) {
    progress.update(static_cast<double>(done) / ubatches);
  });
}

}  // namespace

Result<SparseLayers> find_sparse_layers(const LlamaModel& model, Plugin& plugin) {
  TOKENSIEVE_RETURN_IF_ERROR(read_past_window(model, plugin));
  std::map<int32_t, std::string> reasons;
  for (int32_t l = 1; l < model.num_layers(); ++l) {
    reasons[l] = "no attention that tokensieve reads";
  }
  SparseLayers found{.layers = {}, .dense = {}, .num_layers = model.num_layers()};
  for (const LayerStats& layer : plugin.stats()) {
    if (layer.layer < 1 || layer.layer >= model.num_layers()) continue;
    if (layer.never_sparse_nodes > 0) {
      reasons[layer.layer] = layer.dense_reason;
    } else {
      reasons.erase(layer.layer);
      found.layers.push_back(layer.layer);
    }
  }
  for (const auto& [layer, reason] : reasons) found.dense[reason].push_back(layer);
  if (!found.layers.empty()) return found;
  return Status::error(StatusCode::kUnsupported, "no layer of %s can run sparse: %s",
                       model.source().name.c_str(), always_dense(found).c_str());
}

std::string always_dense(const SparseLayers& layers) {
  std::string text;
  for (const auto& [reason, list] : layers.dense) {
    text += fmt::format("{}layers {}: {}", text.empty() ? "" : "; ", format_layers(list), reason);
  }
  return text;
}

void keep_only(const SparseLayers& layers, Profile& profile) {
  const auto never = [&](int32_t layer) {
    return !std::binary_search(layers.layers.begin(), layers.layers.end(), layer);
  };
  std::erase_if(profile.sparse_layers, never);
  for (LayerSelect& group : profile.layer_select) std::erase_if(group.layers, never);
  std::erase_if(profile.layer_select, [](const LayerSelect& g) { return g.layers.empty(); });
}

}  // namespace tokensieve::cli
