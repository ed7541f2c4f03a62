// The grammar of --config.
#include <fmt/format.h>

#include <algorithm>

#include "common/profiles.h"
#include "eval/command_text.h"
#include "eval/config_keys.h"

namespace tokensieve::eval {
namespace {

constexpr int32_t kNoChunk = -1;  // no key has named one

// "keep=.1,layers=2,5-9": a piece without '=' goes on with the value before.
Result<Settings> split_settings(const std::string& text) {
  Settings settings;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string piece = text.substr(begin, end - begin);
    const size_t equals = piece.find('=');
    if (equals != std::string::npos) {
      settings.emplace_back(piece.substr(0, equals), piece.substr(equals + 1));
    } else if (settings.empty() || piece.empty()) {
      return Status::error(StatusCode::kInvalidArgument,
                           "\"%s\" is not key=value; example: keep=0.1,layers=2-29", piece.c_str());
    } else {
      settings.back().second.append(1, ',').append(piece);
    }
    begin = end + 1;
  }
  return settings;
}

// Every combination of values that are lists.
std::vector<Settings> combinations(const Settings& settings) {
  std::vector<Settings> all = {{}};
  for (const auto& [key, value] : settings) {
    const bool is_list = key != "profile" && key != "name";
    std::vector<Settings> longer;
    for (size_t begin = 0; begin <= value.size();) {
      const size_t end = is_list ? std::min(value.find('/', begin), value.size()) : value.size();
      for (Settings some : all) {
        some.emplace_back(key, value.substr(begin, end - begin));
        longer.push_back(std::move(some));
      }
      begin = end + 1;
    }
    all = std::move(longer);
  }
  return all;
}

std::string join(const Settings& settings) {
  std::string text;
  for (const auto& [key, value] : settings) {
    if (key == "name") continue;
    text += (text.empty() ? "" : ",") + key + "=" + without_folder(value);
  }
  return text;
}

// The profile that a configuration is made from: the model's, or the one that a key names.
Result<Profile> profile_for(const Method& method, const Settings& settings,
                            const Profile& model_profile) {
  Profile profile = model_profile;
  for (const auto& [key, value] : settings) {
    const bool ours = &method == &dense_method();
    if (!method.selects() && key != "name" && key != "chunk" && !(ours && key == "products")) {
      return Status::error(StatusCode::kInvalidArgument,
                           "%s has no key %s: it selects nothing; allowed: chunk, name%s",
                           method.name, key.c_str(), ours ? ", products" : "");
    }
    if (key != "profile") continue;
    if (method.start == Start::kPaper) {
      return Status::error(StatusCode::kInvalidArgument,
                           "%s has no key profile: its settings are the paper's; use "
                           "forced:profile=...",
                           method.name);
    }
    Result<cli::ChosenProfile> chosen = cli::load_named_profile(value);
    if (!chosen.ok()) return chosen.status();
    TOKENSIEVE_RETURN_IF_ERROR(check_fingerprint(chosen->profile, model_profile.fingerprint));
    profile = std::move(chosen->profile);
  }
  return profile;
}

Result<Config> config_of(const Method& method, const Settings& settings,
                         const Profile& model_profile, int32_t chunk) {
  const Result<Profile> profile = profile_for(method, settings, model_profile);
  if (!profile.ok()) return profile.status();
  Config config = make_config(method, *profile);
  config.chunk = kNoChunk;
  for (const auto& [key, value] : settings) {
    TOKENSIEVE_RETURN_IF_ERROR(set_key(config, key, value));
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_block_keys(config.profile, settings));
  const bool named = config.chunk != kNoChunk;
  config.beside_chunk = named ? config.chunk : chunk;
  if (!named) config.chunk = default_chunk(config, chunk);
  TOKENSIEVE_RETURN_IF_ERROR(check_config(config));
  if (config.name.empty()) {
    config.name = settings.empty() ? method.name
                                   : fmt::format("{}:{}", method.name, join(settings));
  }
  return config;
}

Result<const Method*> method_of(const std::string& name) {
  if (const Method* method = find_method(name)) return method;
  std::string allowed;
  for (const Method& m : methods()) allowed += (allowed.empty() ? "" : ", ") + std::string(m.name);
  return Status::error(StatusCode::kInvalidArgument, "unknown preset \"%s\"; allowed: %s",
                       name.c_str(), allowed.c_str());
}

Status add_spec(const std::string& spec, const Profile& model_profile, int32_t chunk,
                std::vector<Config>& configs) {
  const size_t colon = std::min(spec.find(':'), spec.size());
  const Result<const Method*> method = method_of(spec.substr(0, colon));
  if (!method.ok()) return method.status();
  Settings settings;
  if (colon < spec.size()) {
    Result<Settings> split = split_settings(spec.substr(colon + 1));
    if (!split.ok()) return split.status();
    settings = std::move(split.value());
  }
  for (const Settings& some : combinations(settings)) {
    Result<Config> config = config_of(**method, some, model_profile, chunk);
    if (!config.ok()) return config.status();
    for (const Config& other : configs) {
      if (other.name != config->name) continue;
      return Status::error(StatusCode::kInvalidArgument,
                           "two configurations are called \"%s\"; add name=...",
                           other.name.c_str());
    }
    configs.push_back(std::move(config.value()));
  }
  return {};
}

// What the others are compared with.
bool is_reference(const Config& config) {
  return config.method == &dense_method() && (config.profile.products == Products::kAuto ||
                                              config.profile.products == Products::kExact);
}

}  // namespace

std::string describe_configs() {
  std::string text = "Presets:\n";
  for (const Method& m : methods()) text += fmt::format("  {:<13} {}\n", m.name, m.help);
  text += "Keys, after a colon, such as forced:keep=0.1,window=256,name=thin\n";
  for (const auto& [key, help] : keys_and_help()) text += fmt::format("  {:<13} {}\n", key, help);
  return text + "A list of values is a configuration each: forced:keep=.1/.2/.3\n";
}

Result<std::vector<Config>> parse_configs(const std::vector<std::string>& specs,
                                          const Profile& model_profile, int32_t chunk) {
  std::vector<Config> configs;
  for (const std::string& spec : specs) {
    const Status status = add_spec(spec, model_profile, chunk, configs);
    if (!status.ok()) {
      return Status::error(status.code(), "--config %s: %s", spec.c_str(), status.message());
    }
  }
  if (std::none_of(configs.begin(), configs.end(), is_reference)) {
    configs.push_back(dense_config(chunk));
  }
  // Dense first: the others are compared with its logits while these are in memory.
  std::stable_partition(configs.begin(), configs.end(), is_reference);
  return configs;
}

}  // namespace tokensieve::eval
