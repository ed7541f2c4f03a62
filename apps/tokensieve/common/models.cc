#include "common/models.h"

#include <cstring>
#include <filesystem>
#include <fstream>

#include "common/paths.h"

namespace tokensieve::cli {
namespace {

struct ShortName {
  const char* name;
  const char* file;  // in the cache's models/, made by setup/weights.py
  const char* system_prompt;
};

constexpr char kSmolSystem[] =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

constexpr ShortName kShortNames[] = {
    {"smollm2", "SmolLM2-135M-Instruct.F16.gguf", kSmolSystem},
    {"smollm2-128k", "SmolLM2-135M-128K.F16.gguf", kSmolSystem},
};

Status check_gguf(const std::string& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    return Status::error(StatusCode::kNotFound, "%s is not a file; MODEL is a .gguf file",
                         path.c_str());
  }
  std::ifstream file(path, std::ios::binary);
  char magic[4] = {};
  if (!file.read(magic, sizeof(magic)) || std::memcmp(magic, "GGUF", sizeof(magic)) != 0) {
    return Status::error(
        StatusCode::kDataError,
        "%s is not a GGUF file (it does not start with \"GGUF\"); fetch or convert "
        "it again",
        path.c_str());
  }
  return {};
}

Result<ResolvedModel> resolve_short_name(const ShortName& entry, const ModelOptions& options) {
  ResolvedModel model{.name = entry.name, .is_short_name = true, .options = options};
  model.gguf = (cache_folder() / "models" / entry.file).string();
  model.system_prompt = entry.system_prompt;
  std::error_code error;
  if (!fs::exists(model.gguf, error)) {
    return Status::error(StatusCode::kNotFound,
                         "the model %s is not in the cache (%s); make it with `make setup`",
                         entry.name, model.gguf.c_str());
  }
  return model;
}

}  // namespace

std::vector<std::string_view> short_model_names() {
  std::vector<std::string_view> names;
  for (const ShortName& entry : kShortNames) names.emplace_back(entry.name);
  return names;
}

Result<ResolvedModel> resolve_model(const ModelOptions& options) {
  Result<ResolvedModel> result = Status::error(StatusCode::kInternal, "unset");
  std::error_code error;
  const ShortName* found = nullptr;
  std::string names;
  for (const ShortName& entry : kShortNames) {
    if (options.model == entry.name) found = &entry;
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  if (found != nullptr) {
    result = resolve_short_name(*found, options);
  } else if (fs::exists(options.model, error)) {
    result = ResolvedModel{
        .name = fs::path(options.model).stem().string(), .gguf = options.model, .options = options};
  } else {
    return Status::error(StatusCode::kNotFound,
                         "there is no model \"%s\": it is no file and no short name (%s); "
                         "`make setup` fetches the short names",
                         options.model.c_str(), names.c_str());
  }
  if (!result.ok()) return result;
  TOKENSIEVE_RETURN_IF_ERROR(check_gguf(result->gguf));
  if (!result->options.lora.empty()) TOKENSIEVE_RETURN_IF_ERROR(check_gguf(result->options.lora));
  return result;
}

}  // namespace tokensieve::cli
