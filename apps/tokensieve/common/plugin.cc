#include "common/plugin.h"

#include <fmt/format.h>
#include <ggml-backend.h>

#include <map>
#include <utility>

#include "common/llama_log.h"
#include "common/paths.h"
#include "tokensieve/names.h"

namespace tokensieve::cli {
namespace {

Status missing_plugin() {
  std::string searched;
  for (const auto& path : plugin_candidates()) {
    searched += (searched.empty() ? "" : ", ") + path.string();
  }
  return Status::error(StatusCode::kNotFound,
                       "the llama.cpp plug-in is missing (looked for %s); build it with `make "
                       "build`, or use --attention stock",
                       searched.c_str());
}

}  // namespace

std::string products_text(const std::vector<LayerStats>& layers) {
  std::map<std::pair<Products, std::string>, int> counts;
  for (const LayerStats& layer : layers) ++counts[{layer.products, layer.products_reason}];
  std::string text;
  for (auto did = counts.rbegin(); did != counts.rend(); ++did) {  // exact last
    const auto& [products, reason] = did->first;
    text += (text.empty() ? "" : ", ") + std::string(name_of(products));
    if (counts.size() > 1) {
      text += fmt::format(" in {} layer{}", did->second, did->second == 1 ? "" : "s");
    }
    if (!reason.empty()) text += fmt::format(" ({})", reason);
  }
  return text;
}

Result<Plugin> Plugin::load() {
  const auto path = find_plugin();
  if (!path) return missing_plugin();
  Plugin plugin;
  plugin.path_ = path->string();
  clear_llama_errors();
  ggml_backend_reg_t registry = ggml_backend_load(plugin.path_.c_str());
  if (registry == nullptr) {
    return Status::error(StatusCode::kUnsupported,
                         "llama.cpp cannot load the plug-in %s: %s; rebuild it against this "
                         "llama.cpp with `make build`",
                         plugin.path_.c_str(), llama_errors().c_str());
  }
  const auto find = [&](const char* name) {
    return ggml_backend_reg_get_proc_address(registry, name);
  };
  plugin.configure_ =
      reinterpret_cast<tokensieve_ggml_configure_fn>(find("tokensieve_ggml_configure"));
  plugin.stats_ = reinterpret_cast<tokensieve_ggml_stats_fn>(find("tokensieve_ggml_stats"));
  plugin.reset_stats_ =
      reinterpret_cast<tokensieve_ggml_reset_stats_fn>(find("tokensieve_ggml_reset_stats"));
  if (!plugin.configure_ || !plugin.stats_ || !plugin.reset_stats_) {
    return Status::error(StatusCode::kUnsupported,
                         "the plug-in %s lacks its control functions; rebuild it with `make build`",
                         plugin.path_.c_str());
  }
  return plugin;
}

Status Plugin::configure(tokensieve_ggml_mode mode, const Profile* profile,
                         const PluginHook& hook) {
  const std::string json = profile != nullptr ? profile_to_json(*profile) : "";
  tokensieve_ggml_config config = {};
  config.struct_size = sizeof(config);
  config.mode = mode;
  config.profile_json = profile != nullptr ? json.c_str() : nullptr;
  config.select = hook.select;
  config.select_user = hook.user;
  config.always_sparse = hook.always_sparse;
  config.whole_prompts = hook.whole_prompts;
  config.products = static_cast<int32_t>(hook.products);
  char error[256] = {};
  if (configure_(&config, error, sizeof(error)) == 0) return {};
  return Status::error(StatusCode::kInvalidArgument, "the plug-in refused its settings: %s", error);
}

std::vector<LayerStats> Plugin::stats() const {
  const int32_t count = stats_(nullptr, 0);
  std::vector<tokensieve_ggml_layer_stats> raw(static_cast<size_t>(count > 0 ? count : 0));
  if (raw.empty()) return {};
  raw[0].struct_size = sizeof(raw[0]);
  stats_(raw.data(), count);
  std::vector<LayerStats> layers;
  for (const auto& r : raw) {
    layers.push_back({.layer = r.layer,
                      .sparse_nodes = r.sparse_nodes,
                      .never_sparse_nodes = r.never_sparse_nodes,
                      .keep_ratio = r.keep_ratio,
                      .work = r.work,
                      .attention_ms = r.attention_ms,
                      .block_density = r.block_density,
                      .dense_reason = r.reason,
                      .products = static_cast<Products>(r.products),
                      .products_reason = r.products_reason});
  }
  return layers;
}

}  // namespace tokensieve::cli
