#include "common/profiles.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <set>

#include "common/paths.h"

namespace tokensieve::cli {
namespace {

Result<ChosenProfile> load(const fs::path& path) {
  Result<Profile> profile = load_profile(path.string());
  if (!profile.ok()) return profile.status();
  return ChosenProfile{std::move(profile.value()), path.string()};
}

bool read_number(std::string_view& text, int32_t& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

// One "7" or "2-29" at the start of `text`.
bool read_range(std::string_view& text, int32_t& first, int32_t& last) {
  if (!read_number(text, first)) return false;
  last = first;
  if (!text.starts_with('-')) return true;
  text.remove_prefix(1);
  return read_number(text, last);
}

}  // namespace

std::vector<fs::path> shipped_profiles() {
  std::map<std::string, fs::path> by_name;
  for (const fs::path& folder : share_folders()) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder / "profiles", error)) {
      if (entry.path().extension() != ".json") continue;
      by_name.emplace(entry.path().stem().string(), entry.path());
    }
  }
  std::vector<fs::path> paths;
  for (const auto& [name, path] : by_name) paths.push_back(path);
  return paths;
}

Result<ChosenProfile> load_named_profile(const std::string& requested) {
  std::error_code error;
  if (fs::exists(requested, error)) return load(requested);
  std::string names;
  for (const fs::path& path : shipped_profiles()) {
    if (path.stem() == requested) return load(path);
    names += (names.empty() ? "" : ", ") + path.stem().string();
  }
  return Status::error(StatusCode::kNotFound,
                       "there is no profile \"%s\": it is no file and no shipped profile (%s)",
                       requested.c_str(), names.empty() ? "none found" : names.c_str());
}

Result<ChosenProfile> choose_profile(const std::string& requested, const std::string& model_name,
                                     const ModelFingerprint& model) {
  if (!requested.empty()) {
    Result<ChosenProfile> chosen = load_named_profile(requested);
    if (chosen.ok()) TOKENSIEVE_RETURN_IF_ERROR(check_fingerprint(chosen->profile, model));
    return chosen;
  }
  for (const bool by_name : {true, false}) {
    for (const fs::path& path : shipped_profiles()) {
      if (by_name && path.stem() != model_name) continue;
      Result<ChosenProfile> chosen = load(path);
      if (!chosen.ok()) return chosen;  // a broken shipped file must not go unnoticed
      if (check_fingerprint(chosen->profile, model).ok()) return chosen;
    }
  }
  return ChosenProfile{default_profile(model),
                       "no profile for this model: its upper half, local fill, keep 0.2"};
}

void set_blocks(Profile& profile, const BlockConfig& blocks) {
  profile.blocks = blocks;
  for (LayerSelect& group : profile.layer_select) group.blocks = blocks;
}

SelectConfig paper_select() { return SelectConfig{}; }

Result<std::vector<int32_t>> parse_layers(const std::string& text, int32_t num_layers) {
  std::set<int32_t> layers;
  std::string_view rest = text;
  bool ok = true;
  do {
    int32_t first = 0, last = 0;
    ok = read_range(rest, first, last) && first >= 1 && first <= last && last < num_layers &&
         (rest.empty() || (rest.starts_with(',') && rest.size() > 1));
    if (!ok) break;
    for (int32_t l = first; l <= last; ++l) layers.insert(l);
    if (!rest.empty()) rest.remove_prefix(1);
  } while (!rest.empty());
  if (!ok) {
    return Status::error(StatusCode::kInvalidArgument,
                         "layers \"%s\"; allowed: numbers and ranges from 1 to %d (layer 0 is "
                         "never sparse), such as 2-29 or 14,15,20-37",
                         text.c_str(), num_layers - 1);
  }
  return std::vector<int32_t>(layers.begin(), layers.end());
}

std::string format_layers(const std::vector<int32_t>& layers) {
  std::string text;
  for (size_t i = 0; i < layers.size();) {
    size_t end = i;
    while (end + 1 < layers.size() && layers[end + 1] == layers[end] + 1) ++end;
    if (!text.empty()) text += ",";
    text += end == i ? fmt::format("{}", layers[i]) : fmt::format("{}-{}", layers[i], layers[end]);
    i = end + 1;
  }
  return text.empty() ? "none" : text;
}

}  // namespace tokensieve::cli
