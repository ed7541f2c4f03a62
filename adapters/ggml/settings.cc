#include "settings.h"

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

#include "host_api.h"
#include "tokensieve/names.h"

namespace tokensieve::ggml {
namespace {

constexpr const char* kModeNames[] = {"off", "dense", "sparse"};
constexpr const char* kOldModeNames[] = {"chunk", "whole"};

struct Shared {
  std::mutex mutex;
  std::shared_ptr<const Settings> settings = std::make_shared<const Settings>();
};

Shared& shared() {
  // Never destroyed: a host may compute or free its contexts during its own static destruction.
  static Shared& instance = *new Shared;
  return instance;
}

// Older hosts pass a shorter config.
bool has_field(const tokensieve_ggml_config& config, size_t offset, size_t size) {
  return config.struct_size >= offset + size;
}

const char* environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && value[0] != '\0' ? value : nullptr;
}

Status read_flag(const char* name, bool& out) {
  const char* value = environment(name);
  if (value == nullptr) return {};
  if (std::strcmp(value, "0") != 0 && std::strcmp(value, "1") != 0) {
    return Status::error(StatusCode::kInvalidArgument, "%s is \"%.40s\"; allowed: 0 or 1", name,
                         value);
  }
  out = value[0] == '1';
  return {};
}

Status read_mode(Settings& settings) {
  const char* value = environment("TOKENSIEVE_MODE");
  if (value == nullptr) return {};
  for (int i = 0; i < 3; ++i) {
    if (std::strcmp(value, kModeNames[i]) == 0) {
      settings.mode = static_cast<Mode>(i);
      return {};
    }
  }
  for (const char* old : kOldModeNames) {
    if (std::strcmp(value, old) == 0) {
      settings.mode = TOKENSIEVE_GGML_SPARSE;
      settings.old_mode = old;
      return {};
    }
  }
  return Status::error(StatusCode::kInvalidArgument,
                       "TOKENSIEVE_MODE is \"%.40s\"; allowed: off, dense, sparse", value);
}

Status read_min_queries(int64_t& min_queries) {
  const char* value = environment("TOKENSIEVE_MIN_QUERIES");
  if (value == nullptr) return {};
  char* end = nullptr;
  errno = 0;
  const long long number = std::strtoll(value, &end, 10);
  if (*end != '\0' || errno != 0 || number < 1 || number > (1 << 30)) {
    return Status::error(StatusCode::kInvalidArgument,
                         "TOKENSIEVE_MIN_QUERIES is \"%.40s\"; allowed: 1 to 2^30, and below 257 "
                         "only together with -fa on",
                         value);
  }
  min_queries = number;
  return {};
}

// For tests: the double-precision oracle instead of the CPU kernels.
Status read_backend(Backend& backend) {
  const char* value = environment("TOKENSIEVE_BACKEND");
  if (value == nullptr) return {};
  for (Backend candidate : {Backend::kCpu, Backend::kRef}) {
    if (std::strcmp(value, backend_name(candidate)) == 0) {
      backend = candidate;
      return {};
    }
  }
  return Status::error(StatusCode::kInvalidArgument,
                       "TOKENSIEVE_BACKEND is \"%.40s\"; allowed: cpu, ref", value);
}

Status read_products(Products& products) {
  const char* value = environment("TOKENSIEVE_PRODUCTS");
  if (value == nullptr) return {};
  if (const std::optional<Products> named = parse<Products>(value)) {
    products = *named;
    return {};
  }
  return Status::error(StatusCode::kInvalidArgument,
                       "TOKENSIEVE_PRODUCTS is \"%.40s\"; allowed: %s", value,
                       allowed_words<Products>());
}

Status read_profile(Settings& settings) {
  const char* path = environment("TOKENSIEVE_PROFILE");
  if (path == nullptr) return {};
  Result<Profile> profile = load_profile(path);
  if (!profile.ok()) return profile.status();
  settings.profile = std::move(profile).value();
  settings.profile_name = path;
  return {};
}

Status read_all(Settings& settings) {
  TOKENSIEVE_RETURN_IF_ERROR(read_flag("TOKENSIEVE_DISABLE", settings.disabled));
  TOKENSIEVE_RETURN_IF_ERROR(read_flag("TOKENSIEVE_STATS", settings.print_stats));
  TOKENSIEVE_RETURN_IF_ERROR(read_mode(settings));
  TOKENSIEVE_RETURN_IF_ERROR(read_min_queries(settings.min_queries));
  TOKENSIEVE_RETURN_IF_ERROR(read_backend(settings.backend));
  TOKENSIEVE_RETURN_IF_ERROR(read_products(settings.products));
  return read_profile(settings);
}

// A config without the field names none.
Status check_products(const tokensieve_ggml_config& config) {
  if (!has_field(config, offsetof(tokensieve_ggml_config, products), sizeof(int32_t)) ||
      is_valid(static_cast<Products>(config.products))) {
    return {};
  }
  return Status::error(StatusCode::kInvalidArgument, "products is %d; allowed: 0 to %zu (%s)",
                       config.products, kWords<Products>.size() - 1, allowed_words<Products>());
}

}  // namespace

const char* mode_name(Mode mode) { return kModeNames[mode]; }

Products products_of(const Settings& settings) {
  const bool profile_counts =
      settings.mode >= TOKENSIEVE_GGML_SPARSE && settings.profile.has_value();
  if (settings.products != Products::kAuto || !profile_counts) return settings.products;
  return settings.profile->products;
}

void log_old_mode(const char* name) {
  log_line(GGML_LOG_LEVEL_WARN,
           "tokensieve: mode %s is now called sparse: tokens are chosen in every ubatch, among all "
           "tokens so far, whatever part of a prompt it is",
           name);
}

Status settings_from_environment(Settings& settings) {
  Settings read;
  const Status status = read_all(read);
  if (!status.ok()) {
    settings = {.mode = TOKENSIEVE_GGML_DENSE,
                .backend = read.backend,
                .disabled = read.disabled,
                .print_stats = read.print_stats};
    return status;
  }
  settings = std::move(read);
  return {};
}

std::shared_ptr<const Settings> current_settings() {
  const std::lock_guard lock(shared().mutex);
  return shared().settings;
}

void set_current_settings(Settings settings) {
  auto next = std::make_shared<const Settings>(std::move(settings));
  const std::lock_guard lock(shared().mutex);
  shared().settings = std::move(next);
}

Status apply_config(const tokensieve_ggml_config* config) {
  constexpr size_t kLeast = offsetof(tokensieve_ggml_config, profile_json) + sizeof(const char*);
  if (config == nullptr || config->struct_size < kLeast) {
    return Status::error(StatusCode::kInvalidArgument,
                         "config is null or its struct_size %u is below %zu; set it to "
                         "sizeof(tokensieve_ggml_config)",
                         config == nullptr ? 0 : config->struct_size, kLeast);
  }
  if (config->mode < TOKENSIEVE_GGML_OFF || config->mode > TOKENSIEVE_GGML_WHOLE) {
    return Status::error(StatusCode::kInvalidArgument,
                         "mode is %d; allowed: 0 (off), 1 (dense), 2 (sparse)", config->mode);
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_products(*config));
  const bool is_old = config->mode == TOKENSIEVE_GGML_WHOLE;
  if (is_old) log_old_mode("whole");
  Settings settings = *current_settings();
  settings.mode = is_old ? TOKENSIEVE_GGML_SPARSE : static_cast<Mode>(config->mode);
  if (config->profile_json != nullptr) {
    Result<Profile> profile = parse_profile(config->profile_json, "profile_json");
    if (!profile.ok()) return profile.status();
    settings.profile = std::move(profile).value();
    settings.profile_name = settings.profile->model;
  }
  if (has_field(*config, offsetof(tokensieve_ggml_config, select_user), sizeof(void*))) {
    settings.select = config->select;
    settings.select_user = config->select_user;
  }
  if (has_field(*config, offsetof(tokensieve_ggml_config, always_sparse), sizeof(int32_t))) {
    settings.always_sparse = config->always_sparse != 0;
  }
  if (has_field(*config, offsetof(tokensieve_ggml_config, whole_prompts), sizeof(int32_t))) {
    settings.whole_prompts = config->whole_prompts != 0;
  }
  if (has_field(*config, offsetof(tokensieve_ggml_config, products), sizeof(int32_t))) {
    settings.products = static_cast<Products>(config->products);
  }
  set_current_settings(std::move(settings));
  return {};
}

}  // namespace tokensieve::ggml
