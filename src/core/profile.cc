#include "tokensieve/profile.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "core/validate.h"

namespace tokensieve {
namespace {

using Json = nlohmann::ordered_json;

// Real profiles are under 10 KB; a larger file is not one.
constexpr size_t kMaxBytes = 1 << 20;
constexpr int32_t kMaxLayers = 4096;

template <typename E>
struct Choice {
  const char* name;
  E value;
};

constexpr Choice<BudgetPolicy> kBudgets[] = {{"tau", BudgetPolicy::kTau},
                                             {"keep_ratio", BudgetPolicy::kKeepRatio},
                                             {"keep_count", BudgetPolicy::kKeepCount}};
constexpr Choice<Share> kShares[] = {
    {"head", Share::kHead}, {"kv", Share::kKv}, {"layer", Share::kLayer}};
constexpr Choice<Fill> kFills[] = {{"zero", Fill::kZero}, {"local", Fill::kLocal}};
constexpr Choice<Arithmetic> kArithmetics[] = {
    {"fp32", Arithmetic::kFp32}, {"reference_rounding", Arithmetic::kReferenceRounding}};

template <typename E, size_t N>
const char* name_of(const Choice<E> (&choices)[N], E value) {
  for (const auto& choice : choices) {
    if (choice.value == value) return choice.name;
  }
  return "unknown";
}

// Reads typed members of one JSON object and remembers the first error.
class Reader {
 public:
  Reader(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) fail("is not a JSON object");
  }

  bool ok() const { return status_.ok(); }
  Status status() const { return status_; }
  bool has(const char* key) const { return object_.is_object() && object_.contains(key); }

  void fail(const std::string& what) {
    if (!status_.ok()) return;
    status_ = Status::error(StatusCode::kDataError, "%s: %s", where_.c_str(), what.c_str());
  }

  // Absent members keep the default that `out` holds.
  void read(const char* key, double& out) {
    if (!has(key)) return;
    if (!object_[key].is_number()) return fail(std::string(key) + " is not a number");
    out = object_[key].get<double>();
  }
  void read(const char* key, std::string& out) {
    if (!has(key)) return;
    if (!object_[key].is_string()) return fail(std::string(key) + " is not a string");
    out = object_[key].get<std::string>();
  }
  template <std::integral T>
  void read(const char* key, T& out, int64_t max) {
    if (!has(key)) return;
    if (!read_integer(object_[key], max, out)) {
      fail(std::string(key) + " is " + object_[key].dump().substr(0, 40) +
           "; allowed: an integer from 0 to " + std::to_string(max));
    }
  }
  template <typename E, size_t N>
  void read(const char* key, const Choice<E> (&choices)[N], E& out) {
    if (!has(key)) return;
    std::string allowed;
    for (const auto& choice : choices) {
      if (object_[key] == choice.name) {
        out = choice.value;
        return;
      }
      allowed += (allowed.empty() ? "" : ", ") + std::string(choice.name);
    }
    fail(std::string(key) + " is " + object_[key].dump().substr(0, 40) + "; allowed: " + allowed);
  }

  void reject_unknown(std::initializer_list<const char*> known) {
    if (!object_.is_object()) return;
    for (const auto& item : object_.items()) {
      const std::string& key = item.key();
      const bool found =
          std::any_of(known.begin(), known.end(), [&](const char* k) { return key == k; });
      if (!found) fail("unknown key \"" + key.substr(0, 60) + "\"");
    }
  }

  template <std::integral T>
  static bool read_integer(const Json& value, int64_t max, T& out) {
    if (!value.is_number_integer() && !value.is_number_unsigned()) return false;
    if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(max)) {
      return false;
    }
    const int64_t number = value.get<int64_t>();
    if (number < 0 || number > max) return false;
    out = static_cast<T>(number);
    return true;
  }

 private:
  const Json& object_;
  std::string where_;
  Status status_;
};

void read_layers(Reader& reader, const char* key, const Json& list, int32_t num_layers,
                 std::vector<int32_t>& layers) {
  const std::string name = key;
  if (!list.is_array()) return reader.fail(name + " is not an array");
  for (const Json& entry : list) {
    int32_t layer = 0;
    if (!Reader::read_integer(entry, kMaxLayers - 1, layer) || layer == 0 ||
        (num_layers > 0 && layer >= num_layers)) {
      return reader.fail(name + " holds " + entry.dump().substr(0, 40) +
                         "; allowed: 1 to num_layers - 1 (layer 0 is never sparse)");
    }
    layers.push_back(layer);
  }
  if (!std::is_sorted(layers.begin(), layers.end(), std::less_equal<>())) {
    reader.fail(name + " must ascend without repeats");
  }
}

void read_drift(Reader& reader, const Json& root, Profile& profile) {
  if (!root["drift"].is_array() || root["drift"].size() > kMaxLayers) {
    return reader.fail("drift is not an array of numbers");
  }
  for (const Json& entry : root["drift"]) {
    if (!entry.is_number() || !(entry.get<double>() >= 0)) {
      return reader.fail("drift holds " + entry.dump().substr(0, 40) + "; allowed: numbers >= 0");
    }
    profile.drift.push_back(entry.get<double>());
  }
}

void read_select(Reader& select, SelectConfig& c) {
  constexpr int64_t kMaxCount = int64_t{1} << 31;
  select.reject_unknown({"budget", "tau", "keep_ratio", "keep_count", "obs_window", "pool_width",
                         "min_keep", "protect_first", "min_drop", "share", "fill", "local_window",
                         "sinks", "arithmetic"});
  select.read("budget", kBudgets, c.budget);
  select.read("tau", c.tau);
  select.read("keep_ratio", c.keep_ratio);
  select.read("keep_count", c.keep_count, kMaxCount);
  select.read("obs_window", c.obs_window, kMaxLayers);
  select.read("pool_width", c.pool_width, 1023);
  select.read("min_keep", c.min_keep, kMaxCount);
  select.read("protect_first", c.protect_first, kMaxCount - 1);
  select.read("min_drop", c.min_drop);
  select.read("share", kShares, c.share);
  select.read("fill", kFills, c.fill);
  select.read("local_window", c.local_window, 1 << 30);
  select.read("sinks", c.sinks, kLocalBlock);
  select.read("arithmetic", kArithmetics, c.arithmetic);
}

Status read_valid_select(const Json& object, const std::string& where, SelectConfig& c) {
  Reader reader(object, where);
  read_select(reader, c);
  if (!reader.ok()) return reader.status();
  const Status valid = validate_select(c);
  if (valid.ok()) return {};
  return Status::error(StatusCode::kDataError, "%s: %s", where.c_str(), valid.message());
}

// Entries hold only what differs from `select`.
Status read_layer_select(const Json& list, const std::string& source_name, Profile& profile) {
  const std::string where = source_name + ": layer_select";
  if (!list.is_array()) {
    return Status::error(StatusCode::kDataError, "%s is not an array", where.c_str());
  }
  std::set<int32_t> seen;
  for (const Json& entry : list) {
    Reader reader(entry, where);
    reader.reject_unknown({"layers", "select"});
    for (const char* key : {"layers", "select"}) {
      if (reader.ok() && !reader.has(key)) reader.fail(std::string(key) + " is missing");
    }
    if (!reader.ok()) return reader.status();
    LayerSelect group{.layers = {}, .select = profile.select};
    read_layers(reader, "layers", entry["layers"], profile.fingerprint.num_layers, group.layers);
    if (group.layers.empty()) reader.fail("layers names no layer");
    for (const int32_t layer : group.layers) {
      if (!seen.insert(layer).second) {
        reader.fail("layers names " + std::to_string(layer) + " a second time");
      }
    }
    if (!reader.ok()) return reader.status();
    TOKENSIEVE_RETURN_IF_ERROR(
        read_valid_select(entry["select"], where + ": select", group.select));
    profile.layer_select.push_back(std::move(group));
  }
  return {};
}

Json json_of(const SelectConfig& c) {
  Json select = {{"budget", name_of(kBudgets, c.budget)}};
  switch (c.budget) {
    case BudgetPolicy::kTau: select["tau"] = c.tau; break;
    case BudgetPolicy::kKeepRatio: select["keep_ratio"] = c.keep_ratio; break;
    case BudgetPolicy::kKeepCount: select["keep_count"] = c.keep_count; break;
  }
  select["obs_window"] = c.obs_window;
  select["pool_width"] = c.pool_width;
  select["min_keep"] = c.min_keep;
  select["protect_first"] = c.protect_first;
  select["min_drop"] = c.min_drop;
  select["share"] = name_of(kShares, c.share);
  select["fill"] = name_of(kFills, c.fill);
  if (c.fill == Fill::kLocal) {
    select["local_window"] = c.local_window;
    select["sinks"] = c.sinks;
  }
  select["arithmetic"] = name_of(kArithmetics, c.arithmetic);
  return select;
}

Json layer_select_json(const Profile& profile, const Json& common) {
  Json list = Json::array();
  for (const LayerSelect& group : profile.layer_select) {
    const Json select = json_of(group.select);
    Json differs = Json::object();
    for (const auto& [key, value] : select.items()) {
      if (!common.contains(key) || common[key] != value) differs[key] = value;
    }
    list.push_back({{"layers", group.layers}, {"select", std::move(differs)}});
  }
  return list;
}

}  // namespace

bool Profile::is_sparse(int32_t layer) const {
  return std::binary_search(sparse_layers.begin(), sparse_layers.end(), layer);
}

const SelectConfig& Profile::select_of(int32_t layer) const {
  for (const LayerSelect& group : layer_select) {
    if (std::binary_search(group.layers.begin(), group.layers.end(), layer)) return group.select;
  }
  return select;
}

Result<Profile> parse_profile(const std::string& json, const std::string& source_name) {
  if (json.size() > kMaxBytes) {
    return Status::error(StatusCode::kDataError, "%s is %zu bytes; a profile has at most %zu",
                         source_name.c_str(), json.size(), kMaxBytes);
  }
  const Json root = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) {
    return Status::error(StatusCode::kDataError,
                         "%s is not valid JSON; write one with `tokensieve profile`",
                         source_name.c_str());
  }
  Profile profile;
  Reader reader(root, source_name);
  reader.reject_unknown(
      {"tokensieve_profile", "model", "fingerprint", "sparse_layers", "select", "layer_select",
       "min_tokens", "drift"});
  int32_t version = 0;
  reader.read("tokensieve_profile", version, 1000);
  if (reader.ok() && version != 1) {
    reader.fail("tokensieve_profile is " + std::to_string(version) + "; allowed: 1");
  }
  for (const char* key : {"fingerprint", "sparse_layers", "select"}) {
    if (reader.ok() && !reader.has(key)) reader.fail(std::string(key) + " is missing");
  }
  if (!reader.ok()) return reader.status();

  reader.read("model", profile.model);
  reader.read("min_tokens", profile.min_tokens, int64_t{1} << 31);
  Reader print(root["fingerprint"], source_name + ": fingerprint");
  print.reject_unknown({"architecture", "num_layers", "num_q_heads", "num_kv_heads", "head_dim"});
  ModelFingerprint& f = profile.fingerprint;
  print.read("architecture", f.architecture);
  print.read("num_layers", f.num_layers, kMaxLayers);
  print.read("num_q_heads", f.num_q_heads, kMaxLayers);
  print.read("num_kv_heads", f.num_kv_heads, kMaxLayers);
  print.read("head_dim", f.head_dim, kMaxLayers);
  if (!print.ok()) return print.status();
  TOKENSIEVE_RETURN_IF_ERROR(
      read_valid_select(root["select"], source_name + ": select", profile.select));
  read_layers(reader, "sparse_layers", root["sparse_layers"], f.num_layers,
              profile.sparse_layers);
  if (reader.ok() && reader.has("drift")) read_drift(reader, root, profile);
  if (!reader.ok()) return reader.status();
  if (reader.has("layer_select")) {
    TOKENSIEVE_RETURN_IF_ERROR(read_layer_select(root["layer_select"], source_name, profile));
  }
  return profile;
}

Result<Profile> load_profile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return Status::error(StatusCode::kNotFound, "cannot open profile %s", path.c_str());
  }
  std::string text(kMaxBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return parse_profile(text, path);
}

std::string profile_to_json(const Profile& profile) {
  const ModelFingerprint& f = profile.fingerprint;
  const Json select = json_of(profile.select);
  Json root = {{"tokensieve_profile", 1},
               {"model", profile.model},
               {"fingerprint",
                {{"architecture", f.architecture},
                 {"num_layers", f.num_layers},
                 {"num_q_heads", f.num_q_heads},
                 {"num_kv_heads", f.num_kv_heads},
                 {"head_dim", f.head_dim}}},
               {"sparse_layers", profile.sparse_layers},
               {"min_tokens", profile.min_tokens},
               {"select", select}};
  if (!profile.layer_select.empty()) root["layer_select"] = layer_select_json(profile, select);
  if (!profile.drift.empty()) root["drift"] = profile.drift;
  return root.dump(2) + "\n";
}

Status check_fingerprint(const Profile& profile, const ModelFingerprint& model) {
  const ModelFingerprint& f = profile.fingerprint;
  std::ostringstream differences;
  const auto compare = [&](const char* name, int32_t expected, int32_t got) {
    if (expected == 0 || expected == got) return;
    if (differences.tellp() > 0) differences << ", ";
    differences << name << " " << got << " (profile: " << expected << ")";
  };
  if (!f.architecture.empty() && !model.architecture.empty() &&
      f.architecture != model.architecture) {
    differences << "architecture " << model.architecture << " (profile: " << f.architecture << ")";
  }
  compare("num_layers", f.num_layers, model.num_layers);
  compare("num_q_heads", f.num_q_heads, model.num_q_heads);
  compare("num_kv_heads", f.num_kv_heads, model.num_kv_heads);
  compare("head_dim", f.head_dim, model.head_dim);
  const std::string text = differences.str();
  if (text.empty()) return {};
  return Status::error(StatusCode::kInvalidArgument,
                       "the profile \"%s\" is for another model: the model has %s; make one with "
                       "`tokensieve profile MODEL --text FILE`",
                       profile.model.c_str(), text.c_str());
}

}  // namespace tokensieve
