#include "core/profile.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

namespace tokensieve {
namespace {

// Real profiles are under 10 KB; a larger file is not one.
constexpr size_t kMaxBytes = 1 << 20;
constexpr int32_t kMaxLayers = 4096;

void read_layers(JsonFields& fields, const char* key, int32_t num_layers,
                 std::vector<int32_t>& layers) {
  const std::string name = key;
  if (!fields.at(key).is_array()) return fields.fail(name + " is not an array");
  for (const Json& entry : fields.at(key)) {
    int32_t layer = 0;
    if (!JsonFields::read_integer(entry, kMaxLayers - 1, layer) || layer == 0 ||
        (num_layers > 0 && layer >= num_layers)) {
      return fields.fail(name + " holds " + JsonFields::sample(entry) +
                         "; allowed: 1 to num_layers - 1 (layer 0 is never sparse)");
    }
    layers.push_back(layer);
  }
  if (!std::is_sorted(layers.begin(), layers.end(), std::less_equal<>())) {
    fields.fail(name + " must ascend without repeats");
  }
}

void read_drift(JsonFields& fields, std::vector<double>& drift) {
  if (!fields.has("drift")) return;
  const Json& list = fields.at("drift");
  if (!list.is_array() || list.size() > kMaxLayers) {
    return fields.fail("drift is not an array of numbers");
  }
  for (const Json& entry : list) {
    if (!entry.is_number() || !(entry.get<double>() >= 0)) {
      return fields.fail("drift holds " + JsonFields::sample(entry) + "; allowed: numbers >= 0");
    }
    drift.push_back(entry.get<double>());
  }
}

Status read_fingerprint(const Json& object, const std::string& where, ModelFingerprint& f) {
  JsonFields fields(object, where);
  fields.reject_unknown({"architecture", "num_layers", "num_q_heads", "num_kv_heads", "head_dim"});
  fields.read("architecture", f.architecture);
  fields.read("num_layers", f.num_layers, kMaxLayers);
  fields.read("num_q_heads", f.num_q_heads, kMaxLayers);
  fields.read("num_kv_heads", f.num_kv_heads, kMaxLayers);
  fields.read("head_dim", f.head_dim, kMaxLayers);
  return fields.status();
}

// Masks and scores come with a call: a profile names an estimator.
Status read_blocks(const JsonFields& object, SettingKeys keys, BlockConfig& blocks) {
  if (!object.has("blocks")) return {};
  const std::string where = object.where() + ": blocks";
  TOKENSIEVE_RETURN_IF_ERROR(read_settings(object.at("blocks"), where, keys, blocks));
  if (blocks.pattern != BlockPattern::kGiven && blocks.pattern != BlockPattern::kScores) return {};
  return Status::error(StatusCode::kDataError,
                       "%s: pattern is %s, which comes with a call; allowed: none, flex, pooled, "
                       "antidiagonal, vertical_slash",
                       where.c_str(), name_of(blocks.pattern));
}

// An entry holds only what differs from `select` and `blocks`.
Status read_layer_group(const Json& entry, const std::string& where, SettingKeys keys,
                        std::set<int32_t>& seen, Profile& profile) {
  JsonFields fields(entry, where);
  fields.reject_unknown({"layers", "select", "blocks"});
  fields.require({"layers"});
  if (!fields.has("blocks")) fields.require({"select"});
  if (!fields.ok()) return fields.status();
  LayerSelect group{.layers = {}, .select = profile.select, .blocks = profile.blocks};
  read_layers(fields, "layers", profile.fingerprint.num_layers, group.layers);
  if (group.layers.empty()) fields.fail("layers names no layer");
  for (const int32_t layer : group.layers) {
    if (!seen.insert(layer).second) {
      fields.fail("layers names " + std::to_string(layer) + " a second time");
    }
  }
  if (!fields.ok()) return fields.status();
  if (fields.has("select")) {
    TOKENSIEVE_RETURN_IF_ERROR(
        read_settings(fields.at("select"), where + ": select", keys, group.select));
  }
  TOKENSIEVE_RETURN_IF_ERROR(read_blocks(fields, keys, group.blocks));
  profile.layer_select.push_back(std::move(group));
  return {};
}

Status read_layer_select(const JsonFields& root, SettingKeys keys, Profile& profile) {
  if (!root.has("layer_select")) return {};
  const std::string where = root.where() + ": layer_select";
  if (!root.at("layer_select").is_array()) {
    return Status::error(StatusCode::kDataError, "%s is not an array", where.c_str());
  }
  std::set<int32_t> seen;
  for (const Json& entry : root.at("layer_select")) {
    TOKENSIEVE_RETURN_IF_ERROR(read_layer_group(entry, where, keys, seen, profile));
  }
  return {};
}

Status read_root(const Json& object, const std::string& source_name, SettingKeys keys,
                 Profile& profile) {
  JsonFields root(object, source_name);
  root.reject_unknown({"tokensieve_profile", "model", "fingerprint", "sparse_layers", "select",
                       "blocks", "layer_select", "min_tokens", "products", "drift"});
  int32_t version = 0;
  root.read("tokensieve_profile", version, 1000);
  if (version != 1) root.fail("tokensieve_profile is " + std::to_string(version) + "; allowed: 1");
  root.require({"fingerprint", "sparse_layers", "select"});
  if (!root.ok()) return root.status();

  root.read("model", profile.model);
  root.read("min_tokens", profile.min_tokens, int64_t{1} << 31);
  root.read("products", profile.products);
  TOKENSIEVE_RETURN_IF_ERROR(read_fingerprint(root.at("fingerprint"),
                                              source_name + ": fingerprint", profile.fingerprint));
  TOKENSIEVE_RETURN_IF_ERROR(
      read_settings(root.at("select"), source_name + ": select", keys, profile.select));
  TOKENSIEVE_RETURN_IF_ERROR(read_blocks(root, keys, profile.blocks));
  read_layers(root, "sparse_layers", profile.fingerprint.num_layers, profile.sparse_layers);
  read_drift(root, profile.drift);
  if (!root.ok()) return root.status();
  return read_layer_select(root, keys, profile);
}

// The members of `own` that `common` has not.
Json differing(const Json& own, const Json& common) {
  Json differs = Json::object();
  for (const auto& [key, value] : own.items()) {
    if (!common.contains(key) || common[key] != value) differs[key] = value;
  }
  return differs;
}

Json layer_select_json(const Profile& profile, SettingKeys keys) {
  const Json select = settings_json(profile.select, keys);
  const Json blocks = settings_json(profile.blocks, keys);
  Json list = Json::array();
  for (const LayerSelect& group : profile.layer_select) {
    Json entry = {{"layers", group.layers},
                  {"select", differing(settings_json(group.select, keys), select)}};
    Json differs = differing(settings_json(group.blocks, keys), blocks);
    if (!differs.empty()) entry["blocks"] = std::move(differs);
    list.push_back(std::move(entry));
  }
  return list;
}

}  // namespace

Result<Profile> parse_profile(const std::string& json, const std::string& source_name,
                              SettingKeys keys) {
  if (json.size() > kMaxBytes) {
    return Status::error(StatusCode::kDataError, "%s is %zu bytes; a profile has at most %zu",
                         source_name.c_str(), json.size(), kMaxBytes);
  }
  const Result<Json> root = parse_json(json, source_name);
  if (!root.ok()) {
    return Status::error(StatusCode::kDataError, "%s; write one with `tokensieve profile`",
                         root.status().message());
  }
  Profile profile;
  TOKENSIEVE_RETURN_IF_ERROR(read_root(*root, source_name, keys, profile));
  return profile;
}

Result<Profile> parse_profile(const std::string& json, const std::string& source_name) {
  return parse_profile(json, source_name, SettingKeys::kProfile);
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

std::string profile_to_json(const Profile& profile, SettingKeys keys) {
  const ModelFingerprint& f = profile.fingerprint;
  Json root = {{"tokensieve_profile", 1},
               {"model", profile.model},
               {"fingerprint",
                {{"architecture", f.architecture},
                 {"num_layers", f.num_layers},
                 {"num_q_heads", f.num_q_heads},
                 {"num_kv_heads", f.num_kv_heads},
                 {"head_dim", f.head_dim}}},
               {"sparse_layers", profile.sparse_layers},
               {"min_tokens", profile.min_tokens}};
  if (keys == SettingKeys::kAll || profile.products != Products::kAuto) {
    root["products"] = name_of(profile.products);
  }
  root["select"] = settings_json(profile.select, keys);
  if (keys == SettingKeys::kAll || profile.blocks.pattern != BlockPattern::kNone) {
    root["blocks"] = settings_json(profile.blocks, keys);
  }
  if (!profile.layer_select.empty()) {
    root["layer_select"] = layer_select_json(profile, keys);
  }
  if (!profile.drift.empty()) root["drift"] = profile.drift;
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string profile_to_json(const Profile& profile) {
  return profile_to_json(profile, SettingKeys::kProfile);
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
