#include "eval/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <variant>

#include "common/profiles.h"

namespace tokensieve::cli::eval {
namespace {

using Json = nlohmann::ordered_json;

// Local fill rounds a window down to whole blocks: a row sees half of one more, on average.
constexpr double kBesideWindow = kLocalBlock / 2.0;
constexpr int64_t kMostTokens = int64_t{1} << 30;

// ---- presets ------------------------------------------------------------------------------------

struct Preset {
  const char* name;
  Kind kind;
  const char* help;
  const char* note;  // for the report; names what a proxy leaves out
};

// "forced" and "paper" are ways to fill in a profile; what runs is kSparse.
constexpr Preset kPresets[] = {
    {"stock", Kind::kStock, "llama.cpp's own attention", ""},
    {"dense", Kind::kDense, "our attention without selection; everything is measured against it",
     ""},
    {"sparse", Kind::kSparse, "the model's profile as it is, min_tokens and break-even included",
     "the profile as shipped: short prompts run dense"},
    {"forced", Kind::kSparse, "the profile's selection at every length: no min_tokens, no min_keep",
     "the profile's selection without its length gates"},
    {"paper", Kind::kSparse, "the paper: upper half of the layers, a set per head, tau .005, zeros",
     "arXiv 2602.03216: upper half, tau .005, zero fill"},
    {"none", Kind::kNone, "no selection: sinks, a wider window, the last obs_window rows dense",
     "no selection: sinks, a window as wide as equal work allows, last rows dense"},
    {"random", Kind::kRandom, "as many tokens as forced keeps, drawn at random",
     "random tokens in place of the chosen ones, same fill"},
    {"recent", Kind::kRecent, "sinks and newest tokens only, the rest is forgotten (StreamingLLM)",
     "StreamingLLM style: sinks and newest tokens, the rest leaves the KV cache"},
    {"evict", Kind::kEvict, "one layer chooses, the short prompt is read again (GemFilter)",
     "GemFilter style: one layer's choice, the rest never reaches the KV cache"},
    {"once", Kind::kOnce, "the first sparse layer chooses for all deeper ones: not reversible",
     "our sets chosen once, never revised: what reversibility is worth"},
    {"draft", Kind::kDraft, "sets seen in a dense run of the same model (a bound for STS)",
     "STS bound: sets from the model's own dense run, which is not charged"}};

const Preset* find_preset(std::string_view name) {
  const auto* end = std::end(kPresets);
  const auto* found =
      std::find_if(std::begin(kPresets), end, [&](const Preset& p) { return p.name == name; });
  return found == end ? nullptr : found;
}

void for_each_select(Profile& profile, const std::function<void(SelectConfig&)>& change) {
  change(profile.select);
  for (LayerSelect& group : profile.layer_select) change(group.select);
}

Profile without_gates(Profile profile) {
  profile.min_tokens = 0;
  for_each_select(profile, [](SelectConfig& select) { select.min_keep = 0; });
  return profile;
}

Config from_preset(const Preset& preset, const Profile& profile) {
  Config config{.kind = preset.kind, .note = preset.note};
  if (!config.selects()) return config;
  const std::string_view name = preset.name;
  config.profile = profile;
  config.always_sparse = name != "sparse";
  if (name == "paper") {
    config.profile = default_profile(profile.fingerprint);
    config.profile.select = paper_select();
    config.profile.min_tokens = 0;
  } else if (name != "sparse") {
    config.profile = without_gates(config.profile);
  }
  config.filter_layer = std::max(1, 2 * profile.fingerprint.num_layers / 5);
  // `once` has one set for all layers: where they keep different shares, as much work stands in.
  const bool layers_differ = !config.profile.layer_select.empty();
  config.equal_work = config.kind == Kind::kNone || config.kind == Kind::kRecent ||
                      (config.kind == Kind::kOnce && layers_differ);
  config.beside_fill = config.profile.select.fill;
  if (config.kind == Kind::kRecent) {
    for_each_select(config.profile, [](SelectConfig& select) { select.fill = Fill::kZero; });
  }
  if (config.kind == Kind::kRecent || config.kind == Kind::kEvict || config.kind == Kind::kOnce) {
    for_each_select(config.profile, [](SelectConfig& select) { select.share = Share::kLayer; });
  }
  return config;
}

// ---- keys ---------------------------------------------------------------------------------------

Status bad_value(const std::string& key, const std::string& value, const std::string& allowed) {
  return Status::error(StatusCode::kInvalidArgument, "%s=%s; allowed: %s", key.c_str(),
                       value.c_str(), allowed.c_str());
}

template <typename Owner>
using Setter = std::function<Status(Owner&, const std::string& key, const std::string& value)>;

// What a baseline of equal work gets from its profile's work, unless the user names it.
enum class Names { kNothing, kTokens, kWindow };

struct Key {
  const char* name;
  const char* help;
  std::variant<Setter<Config>, Setter<SelectConfig>> set;  // the latter: for every layer
  Names names = Names::kNothing;
};

template <typename T>
bool read_number(const std::string& text, T& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

template <typename Owner, typename Number>
Setter<Owner> integer(Number Owner::*field, int64_t least, int64_t most, int64_t step = 1) {
  return [=](Owner& owner, const std::string& key, const std::string& value) -> Status {
    int64_t number = 0;
    if (!read_number(value, number) || number < least || number > most || number % step != 0) {
      return bad_value(key, value,
                       fmt::format("an integer from {} to {}{}", least, most,
                                   step > 1 ? fmt::format(", a multiple of {}", step) : ""));
    }
    owner.*field = static_cast<Number>(number);
    return {};
  };
}

template <typename Owner, typename Word>
Setter<Owner> choice(Word Owner::*field, std::vector<std::pair<std::string, Word>> words) {
  return [=](Owner& owner, const std::string& key, const std::string& value) -> Status {
    std::string allowed;
    for (const auto& [word, meaning] : words) {
      if (word == value) {
        owner.*field = meaning;
        return {};
      }
      allowed += (allowed.empty() ? "" : ", ") + word;
    }
    return bad_value(key, value, allowed);
  };
}

Setter<SelectConfig> share_of(double SelectConfig::*field, BudgetPolicy budget, double least,
                              double most) {
  return [=](SelectConfig& select, const std::string& key, const std::string& value) -> Status {
    double number = 0;
    if (!read_number(value, number) || !(number >= least && number <= most)) {
      return bad_value(key, value, fmt::format("a number from {} to {}", least, most));
    }
    select.*field = number;
    select.budget = budget;
    return {};
  };
}

Status set_count(SelectConfig& select, const std::string& key, const std::string& value) {
  select.budget = BudgetPolicy::kKeepCount;
  return integer(&SelectConfig::keep_count, 1, kMostTokens)(select, key, value);
}

Status set_pool_width(SelectConfig& select, const std::string& key, const std::string& value) {
  TOKENSIEVE_RETURN_IF_ERROR(integer(&SelectConfig::pool_width, 1, 1023)(select, key, value));
  if (select.pool_width % 2 == 1) return {};
  return bad_value(key, value, "an odd number from 1 to 1023");
}

Status set_min_tokens(Config& config, const std::string& key, const std::string& value) {
  return integer(&Profile::min_tokens, 0, kMostTokens)(config.profile, key, value);
}

Status set_filter(Config& config, const std::string& key, const std::string& value) {
  const int32_t last = config.profile.fingerprint.num_layers - 1;
  return integer(&Config::filter_layer, 1, last)(config, key, value);
}

Status set_name(Config& config, const std::string& key, const std::string& value) {
  if (value.empty()) return bad_value(key, value, "some text");
  config.name = value;
  return {};
}

Status set_layers(Config& config, const std::string& key, const std::string& value) {
  const int32_t count = config.profile.fingerprint.num_layers;
  const auto from = [&](int32_t first) {
    config.profile.sparse_layers.clear();
    for (int32_t l = first; l < count; ++l) config.profile.sparse_layers.push_back(l);
    return Status();
  };
  if (value == "profile") return {};
  if (value == "all") return from(1);
  if (value == "upper") return from(std::max(1, count / 2));
  Result<std::vector<int32_t>> layers = parse_layers(value, count);
  if (!layers.ok()) {
    return bad_value(key, value,
                     fmt::format("profile, upper, all, or numbers from 1 to {} such as 2-29 or "
                                 "4,9,12-20",
                                 count - 1));
  }
  config.profile.sparse_layers = std::move(layers.value());
  return {};
}

// The preset was made from it already: see profile_for.
Status ignore_profile(Config&, const std::string&, const std::string&) { return {}; }

const std::vector<Key>& keys() {
  using C = Setter<Config>;
  using S = Setter<SelectConfig>;
  static const std::vector<Key> kKeys = {
      {"profile", "another layer profile: a file or a shipped name", C(ignore_profile)},
      {"keep", "share of the prefix that is kept",
       share_of(&SelectConfig::keep_ratio, BudgetPolicy::kKeepRatio, 1e-6, 1), Names::kTokens},
      {"tau", "share of score mass that may be dropped",
       share_of(&SelectConfig::tau, BudgetPolicy::kTau, 0, 0.999999), Names::kTokens},
      {"count", "number of prefix tokens that is kept", S(set_count), Names::kTokens},
      {"layers", "profile, upper, all, or a list such as 2-29", C(set_layers)},
      {"fill", "zero or local",
       choice(&SelectConfig::fill, {{"zero", Fill::kZero}, {"local", Fill::kLocal}})},
      {"share", "head, kv or layer",
       choice(&SelectConfig::share,
              {{"head", Share::kHead}, {"kv", Share::kKv}, {"layer", Share::kLayer}})},
      {"window", "local fill: neighbours, a multiple of 64",
       integer(&SelectConfig::local_window, 0, 1 << 20, kLocalBlock), Names::kWindow},
      {"sinks", "first tokens that every row sees", integer(&SelectConfig::sinks, 0, kLocalBlock)},
      {"obs_window", "last rows that choose", integer(&SelectConfig::obs_window, 1, 4096)},
      {"pool_width", "smoothing of the scores, odd", S(set_pool_width)},
      {"min_keep", "fewest prefix tokens that are kept",
       integer(&SelectConfig::min_keep, 0, kMostTokens)},
      {"min_tokens", "shorter prompts run dense", C(set_min_tokens)},
      {"mode", "whole: the prompt at once; chunk: 2048 tokens at a time",
       choice(&Config::chunk, {{"whole", false}, {"chunk", true}})},
      {"gate", "on: dense where that is predicted to be faster; off: always sparse",
       choice(&Config::always_sparse, {{"on", false}, {"off", true}})},
      {"filter", "evict: the layer that chooses", C(set_filter)},
      {"name", "what the results call it", C(set_name)}};
  return kKeys;
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

// A key of the selection holds for all layers, also for those that the profile sets apart.
Status set(Config& config, const Key& key, const std::string& value) {
  if (const auto* of_config = std::get_if<Setter<Config>>(&key.set)) {
    return (*of_config)(config, key.name, value);
  }
  const auto& of_select = std::get<Setter<SelectConfig>>(key.set);
  TOKENSIEVE_RETURN_IF_ERROR(of_select(config.profile.select, key.name, value));
  for (LayerSelect& group : config.profile.layer_select) {
    TOKENSIEVE_RETURN_IF_ERROR(of_select(group.select, key.name, value));
  }
  const Names own = config.kind == Kind::kNone ? Names::kWindow : Names::kTokens;
  if (key.names == own) config.equal_work = false;
  return {};
}

Status apply(Config& config, const Settings& settings) {
  for (const auto& [name, value] : settings) {
    const bool known = std::any_of(keys().begin(), keys().end(),
                                   [&, n = name](const Key& key) { return n == key.name; });
    if (known) continue;
    std::string allowed;
    for (const Key& key : keys()) allowed += (allowed.empty() ? "" : ", ") + std::string(key.name);
    return Status::error(StatusCode::kInvalidArgument, "unknown key \"%s\"; allowed: %s",
                         name.c_str(), allowed.c_str());
  }
  for (const Key& key : keys()) {
    for (const auto& [name, value] : settings) {
      if (name == key.name) TOKENSIEVE_RETURN_IF_ERROR(set(config, key, value));
    }
  }
  return {};
}

// What the keys are together; the library checks the selection itself.
Status check(const Config& config) {
  if (!config.selects()) return {};
  const Result<Profile> valid = parse_profile(profile_to_json(config.profile), "the profile");
  if (!valid.ok()) return valid.status();
  const SelectConfig& select = config.profile.select;
  if (config.chunk && config.kind != Kind::kSparse && config.kind != Kind::kRandom) {
    return Status::error(StatusCode::kInvalidArgument, "%s needs mode=whole",
                         kind_name(config.kind));
  }
  const bool needs_count = config.kind == Kind::kRecent || config.kind == Kind::kEvict ||
                           (config.kind == Kind::kNone && config.equal_work);
  if (needs_count && select.budget == BudgetPolicy::kTau) {
    return Status::error(StatusCode::kInvalidArgument,
                         "%s needs a fixed number of tokens: keep=0.2 or count=1024%s",
                         kind_name(config.kind),
                         config.kind == Kind::kNone ? ", or window=1024" : "");
  }
  const bool one_set = config.kind == Kind::kRecent || config.kind == Kind::kEvict ||
                       config.kind == Kind::kOnce;
  if (one_set && select.share != Share::kLayer) {
    return Status::error(StatusCode::kInvalidArgument,
                         "%s needs share=layer: one set for all heads",
                         kind_name(config.kind));
  }
  return {};
}

std::string join(const Settings& settings) {
  std::string text;
  for (const auto& [key, value] : settings) {
    if (key != "name") text += (text.empty() ? "" : ",") + key + "=" + value;
  }
  return text;
}

// The profile that a preset is made from: the model's, or the one that a key `profile` names.
Result<Profile> profile_for(const Preset& preset, const Settings& settings,
                            const Profile& model_profile) {
  Profile profile = model_profile;
  for (const auto& [key, value] : settings) {
    if (key != "profile") continue;
    if (std::string_view(preset.name) == "paper") {
      return Status::error(StatusCode::kInvalidArgument,
                           "paper has no key profile: its settings are the paper's; use "
                           "forced:profile=...");
    }
    Result<ChosenProfile> chosen = load_named_profile(value);
    if (!chosen.ok()) return chosen.status();
    TOKENSIEVE_RETURN_IF_ERROR(check_fingerprint(chosen->profile, model_profile.fingerprint));
    profile = std::move(chosen->profile);
  }
  return profile;
}

Status check_selects(const Preset& preset, const Settings& settings) {
  if (selects(preset.kind)) return {};
  for (const auto& [key, value] : settings) {
    if (key == "name") continue;
    return Status::error(StatusCode::kInvalidArgument, "%s has no key %s: it selects nothing",
                         preset.name, key.c_str());
  }
  return {};
}

Status add_spec(const std::string& spec, const Profile& model_profile,
                std::vector<Config>& configs) {
  const size_t colon = std::min(spec.find(':'), spec.size());
  const Preset* preset = find_preset(spec.substr(0, colon));
  if (preset == nullptr) {
    std::string allowed;
    for (const Preset& p : kPresets) allowed += (allowed.empty() ? "" : ", ") + std::string(p.name);
    return Status::error(StatusCode::kInvalidArgument, "unknown preset \"%s\"; allowed: %s",
                         spec.substr(0, colon).c_str(), allowed.c_str());
  }
  Settings settings;
  if (colon < spec.size()) {
    Result<Settings> split = split_settings(spec.substr(colon + 1));
    if (!split.ok()) return split.status();
    settings = std::move(split.value());
  }
  for (const Settings& some : combinations(settings)) {
    TOKENSIEVE_RETURN_IF_ERROR(check_selects(*preset, some));
    const Result<Profile> profile = profile_for(*preset, some, model_profile);
    if (!profile.ok()) return profile.status();
    Config config = from_preset(*preset, *profile);
    TOKENSIEVE_RETURN_IF_ERROR(apply(config, some));
    TOKENSIEVE_RETURN_IF_ERROR(check(config));
    if (config.name.empty()) {
      config.name = some.empty() ? preset->name : fmt::format("{}:{}", preset->name, join(some));
    }
    for (const Config& other : configs) {
      if (other.name != config.name) continue;
      return Status::error(StatusCode::kInvalidArgument,
                           "two configurations are called \"%s\"; add name=...",
                           other.name.c_str());
    }
    configs.push_back(std::move(config));
  }
  return {};
}

int64_t kept_prefix(const SelectConfig& select, int64_t prefix) {
  int64_t keep = select.budget == BudgetPolicy::kKeepCount
                     ? select.keep_count
                     : static_cast<int64_t>(
                           std::floor(select.keep_ratio * static_cast<double>(prefix)));
  keep = std::max({keep, select.min_keep, int64_t{select.protect_first}});
  return std::min(keep, prefix);
}

}  // namespace

const char* kind_name(Kind kind) {
  for (const Preset& preset : kPresets) {
    if (preset.kind == kind) return preset.name;  // the first: "sparse", not "forced"
  }
  return "unknown";
}

std::vector<std::string> default_configs() {
  return {"stock", "dense", "sparse", "forced", "paper", "none"};
}

std::string describe_presets() {
  std::string text = "Presets:\n";
  for (const Preset& preset : kPresets) {
    text += fmt::format("  {:<12} {}\n", preset.name, preset.help);
  }
  text += "Keys, after a colon, such as forced:keep=0.1,window=256,name=thin\n";
  for (const Key& key : keys()) text += fmt::format("  {:<12} {}\n", key.name, key.help);
  return text + "A list of values is a configuration each: forced:keep=.1/.2/.3\n";
}

Result<std::vector<Config>> parse_configs(const std::vector<std::string>& specs,
                                          const Profile& model_profile) {
  std::vector<Config> configs;
  for (const std::string& spec : specs) {
    const Status status = add_spec(spec, model_profile, configs);
    if (!status.ok()) {
      return Status::error(status.code(), "--config %s: %s", spec.c_str(), status.message());
    }
  }
  const bool has_dense = std::any_of(configs.begin(), configs.end(),
                                     [](const Config& c) { return c.kind == Kind::kDense; });
  if (!has_dense) TOKENSIEVE_RETURN_IF_ERROR(add_spec("dense", model_profile, configs));
  // Dense first: the others are compared with its logits while these are in memory.
  std::stable_partition(configs.begin(), configs.end(),
                        [](const Config& c) { return c.kind == Kind::kDense; });
  return configs;
}

Json config_json(const Config& config) {
  Json json = {{"name", config.name}, {"kind", kind_name(config.kind)}};
  if (config.selects()) {
    json["mode"] = config.chunk ? "chunk" : "whole";
    json["gate"] = !config.always_sparse;
    if (config.kind == Kind::kEvict) json["filter_layer"] = config.filter_layer;
    if (config.equal_work) json["equal_work"] = true;
    json["profile"] = Json::parse(profile_to_json(config.profile));
  }
  json["note"] = config.note;
  return json;
}

double selection_work(const SelectConfig& select, double kept, double tokens) {
  const double ratio = kept / tokens;
  const double all = tokens * (tokens + 1) / 2;
  if (select.fill == Fill::kZero) return ratio * ratio;
  // Every row sees `near` keys, fewer at the start; kept rows also see the kept keys before those.
  const double near = std::min(tokens, select.local_window + kBesideWindow + select.sinks);
  const double far = tokens - near;
  return std::min(1.0, (near * tokens - near * near / 2 + ratio * ratio * far * far / 2) / all);
}

namespace {

double work_of(const SelectConfig& select, int64_t tokens) {
  const int64_t kept = kept_prefix(select, tokens - select.obs_window) + select.obs_window;
  return selection_work(select, static_cast<double>(kept), static_cast<double>(tokens));
}

}  // namespace

double beside_work(const Config& config, int64_t tokens) {
  double sum = 0;
  for (const int32_t layer : config.profile.sparse_layers) {
    SelectConfig select = config.profile.select_of(layer);
    select.fill = config.beside_fill;
    sum += work_of(select, tokens);
  }
  return config.profile.sparse_layers.empty()
             ? 1.0
             : sum / static_cast<double>(config.profile.sparse_layers.size());
}

int32_t equal_work_window(const SelectConfig& select, double work, int64_t tokens) {
  const auto n = static_cast<double>(tokens);
  const double rows = std::min<double>(select.obs_window, n - 1);  // dense at the end
  const double pairs = work * n * (n + 1) / 2;
  // The window pass of the other rows: near * m - near^2 / 2, for m rows.
  const double m = n - rows;
  const double left = std::max(0.0, pairs - rows * (n - rows / 2));
  const double near = m - std::sqrt(std::max(0.0, m * m - 2 * left));
  const auto blocks = std::lround((near - kBesideWindow - select.sinks) / kLocalBlock);
  return static_cast<int32_t>(std::max<long>(1, blocks)) * kLocalBlock;
}

int64_t equal_work_count(const SelectConfig& select, double work, int64_t tokens) {
  // Bisection: work grows with the kept tokens.
  int64_t least = 1, most = tokens - select.obs_window;
  while (least < most) {
    const int64_t middle = least + (most - least) / 2;
    const auto kept = static_cast<double>(middle + select.obs_window);
    if (selection_work(select, kept, static_cast<double>(tokens)) < work) {
      least = middle + 1;
    } else {
      most = middle;
    }
  }
  return least;
}

}  // namespace tokensieve::cli::eval
