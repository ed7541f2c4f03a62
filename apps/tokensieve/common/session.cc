#include "common/session.h"

#include "common/signals.h"

namespace tokensieve::cli {

Result<Session> start_session(const ModelOptions& options, bool verbose, bool with_plugin) {
  stop_cleanly_on_interrupt();
  const Result<ResolvedModel> source = resolve_model(options);
  if (!source.ok()) return source.status();
  TOKENSIEVE_RETURN_IF_ERROR(start_llama(verbose));
  std::optional<Plugin> plugin;
  if (with_plugin) {
    Result<Plugin> loaded = Plugin::load();
    if (!loaded.ok()) return loaded.status();
    plugin = std::move(loaded.value());
  }
  Result<LlamaModel> model = LlamaModel::load(*source);
  if (!model.ok()) return model.status();
  return Session{std::move(plugin), std::move(model.value())};
}

}  // namespace tokensieve::cli
