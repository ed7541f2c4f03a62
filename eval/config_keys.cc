#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <type_traits>

#include "common/blocks.h"
#include "common/profiles.h"
#include "eval/config_keys.h"
#include "tokensieve/names.h"

namespace tokensieve::eval {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 30;

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

}  // namespace

Settings keys_and_help() {
  Settings all;
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

namespace {

Status unknown_key(const std::string& name) {
  std::string allowed;
  for (const auto& [key, help] : keys_and_help()) allowed += (allowed.empty() ? "" : ", ") + key;
  return Status::error(StatusCode::kInvalidArgument, "unknown key \"%s\"; allowed: %s",
                       name.c_str(), allowed.c_str());
}

}  // namespace

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

}  // namespace tokensieve::eval
