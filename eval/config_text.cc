// The grammar of --config.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <type_traits>

#include "common/blocks.h"
#include "common/profiles.h"
#include "eval/command_text.h"
#include "eval/config.h"
#include "tokensieve/names.h"

namespace tokensieve::eval {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 30;
constexpr int32_t kNoChunk = -1;  // no key has named one

Status bad_value(const std::string& key, const std::string& value, const std::string& allowed) {
  return Status::error(StatusCode::kInvalidArgument, "%s=%s; allowed: %s", key.c_str(),
                       value.c_str(), allowed.c_str());
}

template <typename T>
bool read_number(const std::string& text, T& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

// ---- keys of a selection: the fields of SelectConfig that profiles have -------------------------

bool is_key(const SelectField& about) {
  return about.group != SelectField::Group::kCall && std::string_view(about.name) != "budget";
}

bool names(const SelectField& about, const std::string& key) {
  return is_key(about) && (key == about.name || key == about.alias);
}

template <typename Field, typename T>
Status set_field(const Field& about, const std::string& key, const std::string& text, T& field) {
  if constexpr (std::is_enum_v<T>) {
    const std::optional<T> word = parse<T>(text);
    if (!word) return bad_value(key, text, allowed_words<T>());
    field = *word;
  } else if constexpr (!std::is_same_v<T, bool>) {
    T value{};
    if (!read_number(text, value) || !about.allows(static_cast<double>(value))) {
      return bad_value(key, text, about.allowed);
    }
    field = value;
  }
  return {};
}

// ---- keys of block masks: the fields of BlockConfig, its pattern as "blocks" --------------------

// `share` is the selection's; block masks have one for each head.
bool names(const BlockField& about, const std::string& key) {
  const std::string_view name = about.name;
  return name == "pattern" ? key == "blocks" : name != "share" && key == name;
}

// Who names a budget's number means that budget.
void imply(const SelectField& about, SelectConfig& select) {
  if (about.of_budget) select.budget = *about.of_budget;
}
void imply(const BlockField&, BlockConfig&) {}

// SelectConfig or BlockConfig. `found`: there is such a key.
template <typename Settings>
Status set_named(Settings& settings, const std::string& key, const std::string& text,
                 bool& found) {
  Status status;
  for_each_field(settings, [&](const auto& about, auto& field) {
    if (!names(about, key)) return;
    found = true;
    status = set_field(about, key, text, field);
    imply(about, settings);
  });
  return status;
}

// What a baseline of equal work gets from its profile's work, unless a key names it.
EqualWork named_by(const std::string& key) {
  EqualWork named = EqualWork::kNothing;
  SelectConfig select;
  for_each_field(select, [&](const SelectField& about, auto& field) {
    if (!names(about, key)) return;
    if (about.of_budget) named = EqualWork::kTokens;
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(field)>, int32_t>) {
      if (&field == &select.local_window) named = EqualWork::kWindow;
    }
  });
  return named;
}

// ---- keys of a configuration --------------------------------------------------------------------

Status set_integer(const std::string& key, const std::string& text, int64_t least, int64_t most,
                   const std::function<void(int64_t)>& set) {
  int64_t number = 0;
  if (!read_number(text, number) || number < least || number > most) {
    return bad_value(key, text, fmt::format("an integer from {} to {}", least, most));
  }
  set(number);
  return {};
}

Status set_flag(bool& flag, const std::string& key, const std::string& text, const char* no,
                const char* yes) {
  if (text != no && text != yes) return bad_value(key, text, fmt::format("{}, {}", no, yes));
  flag = text == yes;
  return {};
}

Status set_layers(Config& config, const std::string& key, const std::string& text) {
  const int32_t count = config.profile.fingerprint.num_layers;
  const auto from = [&](int32_t first) {
    config.profile.sparse_layers.clear();
    for (int32_t l = first; l < count; ++l) config.profile.sparse_layers.push_back(l);
    return Status();
  };
  if (text == "profile") return {};
  if (text == "all") return from(1);
  if (text == "upper") return from(std::max(1, count / 2));
  Result<std::vector<int32_t>> layers = cli::parse_layers(text, count);
  if (!layers.ok()) {
    return bad_value(key, text,
                     fmt::format("profile, upper, all, or numbers from 1 to {} such as 2-29 or "
                                 "4,9,12-20",
                                 count - 1));
  }
  config.profile.sparse_layers = std::move(layers.value());
  return {};
}

struct Key {
  const char* name;
  const char* help;
  Status (*set)(Config& config, const std::string& key, const std::string& text);
};

constexpr Key kKeys[] = {
    // The configuration was made from it already: see profile_for.
    {"profile", "another layer profile: a file or a shipped name",
     [](Config&, const std::string&, const std::string&) { return Status(); }},
    {"layers", "profile, upper, all, or a list such as 2-29", set_layers},
    {"min_tokens", "shorter prompts run dense",
     [](Config& c, const std::string& key, const std::string& text) {
       return set_integer(key, text, 0, kMostTokens,
                          [&](int64_t number) { c.profile.min_tokens = number; });
     }},
    {"chunk", "tokens that are read at a time: 2048, stock 512",
     [](Config& c, const std::string& key, const std::string& text) {
       return set_integer(key, text, 1, kMostTokens,
                          [&](int64_t number) { c.chunk = static_cast<int32_t>(number); });
     }},
    {"mode", "whole: the prompt at once, as zero fill does by default; chunk: as above",
     [](Config& c, const std::string& key, const std::string& text) {
       bool chunk = false;
       TOKENSIEVE_RETURN_IF_ERROR(set_flag(chunk, key, text, "whole", "chunk"));
       c.chunk = chunk ? cli::kChunkUbatch : 0;
       return Status();
     }},
    {"products", "exact, split or bf16: how attention multiplies on the CPU (docs/products.md)",
     [](Config& c, const std::string& key, const std::string& text) {
       const std::optional<Products> products = parse<Products>(text);
       if (!products) return bad_value(key, text, allowed_words<Products>());
       c.profile.products = *products;
       return Status();
     }},
    {"gate", "on: dense where that is predicted to be faster; off: always sparse",
     [](Config& c, const std::string& key, const std::string& text) {
       return set_flag(c.always_sparse, key, text, "on", "off");
     }},
    {"filter", "evict: the layer that chooses",
     [](Config& c, const std::string& key, const std::string& text) {
       return set_integer(key, text, 1, c.profile.fingerprint.num_layers - 1, [&](int64_t number) {
         c.filter_layer = static_cast<int32_t>(number);
       });
     }},
    {"name", "what the results call it",
     [](Config& c, const std::string& key, const std::string& text) {
       c.name = text;
       return text.empty() ? bad_value(key, text, "some text") : Status();
     }}};

std::vector<std::pair<std::string, std::string>> keys_and_help() {
  std::vector<std::pair<std::string, std::string>> all;
  SelectConfig select;
  for_each_field(select, [&](const SelectField& about, auto&) {
    if (is_key(about)) all.emplace_back(about.alias, about.help);
  });
  BlockConfig blocks;
  for_each_field(blocks, [&](const BlockField& about, auto&) {
    const std::string name = about.name == std::string_view("pattern") ? "blocks" : about.name;
    if (names(about, name)) all.emplace_back(name, cli::readers_of(about) + ": " + about.help);
  });
  for (const Key& key : kKeys) all.emplace_back(key.name, key.help);
  return all;
}

Status unknown_key(const std::string& name) {
  std::string allowed;
  for (const auto& [key, help] : keys_and_help()) allowed += (allowed.empty() ? "" : ", ") + key;
  return Status::error(StatusCode::kInvalidArgument, "unknown key \"%s\"; allowed: %s",
                       name.c_str(), allowed.c_str());
}

// A key of the selection holds for all layers, also for those that the profile sets apart.
Status set_key(Config& config, const std::string& name, const std::string& text) {
  for (const Key& key : kKeys) {
    if (name == key.name) return key.set(config, name, text);
  }
  bool found = false;
  TOKENSIEVE_RETURN_IF_ERROR(set_named(config.profile.select, name, text, found));
  if (!found) TOKENSIEVE_RETURN_IF_ERROR(set_named(config.profile.blocks, name, text, found));
  if (!found) return unknown_key(name);
  for (LayerSelect& group : config.profile.layer_select) {
    TOKENSIEVE_RETURN_IF_ERROR(set_named(group.select, name, text, found));
    TOKENSIEVE_RETURN_IF_ERROR(set_named(group.blocks, name, text, found));
  }
  const bool has_window = config.method->equal_work == EqualWork::kWindow;
  if (named_by(name) == (has_window ? EqualWork::kWindow : EqualWork::kTokens)) {
    config.equal_work = false;
  }
  return {};
}

// ---- specs --------------------------------------------------------------------------------------

using Settings = std::vector<std::pair<std::string, std::string>>;

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

// A setting of block masks that no layer's pattern reads.
Status check_block_keys(const Profile& profile, const Settings& settings) {
  Status status;
  for_each_field(profile.blocks, [&](const BlockField& about, const auto&) {
    const auto reads = [&](const LayerSelect& group) { return about.used_by(group.blocks); };
    if (about.used_by(profile.blocks) || std::ranges::any_of(profile.layer_select, reads)) return;
    for (const auto& [key, value] : settings) {
      if (!status.ok() || !names(about, key)) continue;
      status = cli::unread_setting(about, key + "=" + value, profile.blocks.pattern, "blocks=");
    }
  });
  return status;
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
