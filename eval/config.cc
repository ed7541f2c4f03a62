#include "eval/config.h"

#include <algorithm>
#include <functional>

#include "common/profiles.h"
#include "tokensieve/names.h"

namespace tokensieve::eval {
namespace {

void for_each_select(Profile& profile, const std::function<void(SelectConfig&)>& change) {
  change(profile.select);
  for (LayerSelect& group : profile.layer_select) change(group.select);
}

Profile starting_profile(Start start, const Profile& model_profile) {
  if (start == Start::kShipped) return model_profile;
  Profile profile = model_profile;
  if (start == Start::kPaper) {
    profile = default_profile(model_profile.fingerprint);
    profile.products = model_profile.products;
    profile.select = cli::paper_select();
  } else {
    for_each_select(profile, [](SelectConfig& select) { select.min_keep = 0; });
  }
  profile.min_tokens = 0;
  return profile;
}

Status invalid(const Config& config, const char* what) {
  return Status::error(StatusCode::kInvalidArgument, "%s needs %s", config.method->kind, what);
}

}  // namespace

bool Config::runs_as_dense(int64_t tokens) const {
  return method->prefill == Prefill::kSelect && method->selector == nullptr &&
         tokens < profile.min_tokens;
}

Config dense_config(int32_t chunk) { return {.name = "dense", .chunk = chunk, .profile = {}}; }

int32_t default_chunk(const Config& config, int32_t chunk) {
  const Method& method = *config.method;
  if (method.prefill == Prefill::kStock) return cli::kStockUbatch;
  if (method.selects() && (!method.chunks || config.profile.select.fill == Fill::kZero)) return 0;
  return chunk;
}

Config make_config(const Method& method, const Profile& model_profile) {
  Config config{.method = &method, .profile = {}};
  if (!method.selects()) return config;
  config.profile = starting_profile(method.start, model_profile);
  config.always_sparse = method.start != Start::kShipped;
  config.filter_layer = std::max(1, 2 * model_profile.fingerprint.num_layers / 5);
  config.equal_work = method.equal_work != EqualWork::kNothing ||
                      (method.one_count && !config.profile.layer_select.empty());
  config.beside_fill = config.profile.select.fill;
  for_each_select(config.profile, [&](SelectConfig& select) {
    select.fill = method.fill.value_or(select.fill);
    if (method.one_set) select.share = Share::kLayer;
  });
  return config;
}

Status check_config(const Config& config) {
  const Method& method = *config.method;
  if (!method.selects()) return {};
  const Result<Profile> valid = parse_profile(profile_to_json(config.profile), "the profile");
  if (!valid.ok()) return valid.status();
  const SelectConfig& select = config.profile.select;
  if (config.chunk > 0 && !method.chunks) return invalid(config, "mode=whole");
  if ((method.needs_count || config.equal_work) && select.budget == BudgetPolicy::kTau) {
    return invalid(config, method.equal_work == EqualWork::kWindow
                               ? "a fixed number of tokens: keep=0.2 or count=1024, or window=1024"
                               : "a fixed number of tokens: keep=0.2 or count=1024");
  }
  if (method.one_set && select.share != Share::kLayer) {
    return invalid(config, "share=layer: one set for all heads");
  }
  return {};
}

ConfigLine config_line(const Config& config) {
  ConfigLine line{.name = config.name, .kind = config.method->kind, .note = config.method->note};
  if (!config.method->selects()) {  // not written before, so only what is unusual
    const bool is_usual = config.chunk == default_chunk(config, cli::kChunkUbatch);
    if (config.chunk > 0 && !is_usual) line.chunk = config.chunk;
    if (config.profile.products != Products::kAuto) {
      line.products = name_of(config.profile.products);
    }
    return line;
  }
  line.mode = config.chunk > 0 ? "chunk" : "whole";
  if (config.chunk > 0) line.chunk = config.chunk;
  line.gate = !config.always_sparse;
  if (config.method->prefill == Prefill::kEvict) line.filter_layer = config.filter_layer;
  if (config.equal_work) line.equal_work = true;
  line.profile = Json::parse(profile_to_json(config.profile));
  return line;
}

std::vector<std::string> default_configs() {
  return {"stock", "dense", "sparse", "forced", "paper", "none"};
}

}  // namespace tokensieve::eval
