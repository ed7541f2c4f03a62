// The C ABI of profiles.
#include <algorithm>
#include <cstring>
#include <string>

#include "core/c_call.h"
#include "core/profile.h"
#include "tokensieve/tokensieve_profile_c.h"

using namespace tokensieve;

struct tokensieve_profile {
  Profile profile;
};

namespace {

Status from_c(const tokensieve_fingerprint* in, ModelFingerprint& out) {
  tokensieve_fingerprint f;
  TOKENSIEVE_RETURN_IF_ERROR(read_struct(in, "model", f));
  out = {.architecture = f.architecture == nullptr ? "" : f.architecture,
         .num_layers = f.num_layers,
         .num_q_heads = f.num_q_heads,
         .num_kv_heads = f.num_kv_heads,
         .head_dim = f.head_dim};
  return {};
}

Status from_c(const tokensieve_layer_call* in, LayerCall& out) {
  tokensieve_layer_call c;
  TOKENSIEVE_RETURN_IF_ERROR(read_struct(in, "call", c));
  if (c.reserved != 0) {
    return Status::error(StatusCode::kUnsupported, "call.reserved is %d; allowed: 0", c.reserved);
  }
  if (c.seqlen_q < 1 || c.seqlen_q > c.seqlen_kv) {
    return Status::error(StatusCode::kInvalidArgument,
                         "call.seqlen_q is %lld; allowed: 1..seqlen_kv (%lld)",
                         (long long)c.seqlen_q, (long long)c.seqlen_kv);
  }
  out = {.layer = c.layer,
         .seqlen_q = c.seqlen_q,
         .seqlen_kv = c.seqlen_kv,
         .plain_causal = c.plain_causal != 0};
  return {};
}

Status read_keys(int32_t in, SettingKeys& out) {
  if (in != TOKENSIEVE_KEYS_PROFILE && in != TOKENSIEVE_KEYS_ALL) {
    return Status::error(StatusCode::kInvalidArgument,
                         "keys is %d; allowed: 0 (profile) and 1 (all)", in);
  }
  out = in == TOKENSIEVE_KEYS_ALL ? SettingKeys::kAll : SettingKeys::kProfile;
  return {};
}

Status copy_text(const std::string& in, char* text, size_t capacity, size_t* length) {
  if (text == nullptr && capacity > 0) return null_argument("text");
  if (length != nullptr) *length = in.size();
  if (capacity == 0) return {};
  const size_t count = std::min(capacity - 1, in.size());
  std::memcpy(text, in.data(), count);
  text[count] = '\0';
  return {};
}

// Hands out what `make` returns.
template <typename Make>
int32_t create(tokensieve_profile** profile, tokensieve_status* status, Make&& make) {
  return guarded(status, [&]() -> Status {
    if (profile == nullptr) return null_argument("profile");
    *profile = nullptr;
    Result<Profile> made = make();
    if (!made.ok()) return made.status();
    *profile = new tokensieve_profile{std::move(made).value()};
    return {};
  });
}

template <typename Config, typename CStruct>
int32_t merge_json(const char* json, const char* name, CStruct* settings,
                   tokensieve_status* status) {
  return guarded(status, [&]() -> Status {
    if (json == nullptr) return null_argument("json");
    if (settings == nullptr) return null_argument(name);
    Config merged;
    TOKENSIEVE_RETURN_IF_ERROR(from_c(settings, merged));
    const Result<Json> object = parse_json(json, name);
    const Status read = object.ok() ? read_settings(*object, name, SettingKeys::kAll, merged)
                                    : object.status();
    // It is an argument here, not a file.
    if (!read.ok()) return Status::error(StatusCode::kInvalidArgument, "%s", read.message());
    write_struct(to_c(merged), settings);
    return {};
  });
}

template <typename Config, typename CStruct>
int32_t to_json(const CStruct* settings, const char* name, char* text, size_t capacity,
                size_t* length, tokensieve_status* status) {
  return guarded(status, [&]() -> Status {
    if (settings == nullptr) return null_argument(name);
    Config config;
    TOKENSIEVE_RETURN_IF_ERROR(from_c(settings, config));
    return copy_text(settings_json(config, SettingKeys::kAll).dump(), text, capacity, length);
  });
}

template <typename Config>
const char* word_of(const char* field, int32_t value) {
  const char* word = nullptr;
  if (field == nullptr) return word;
  const Config config;
  for_each_field(config, [&](const auto& about, const auto& of_config) {
    using Value = std::remove_cvref_t<decltype(of_config)>;
    if constexpr (std::is_enum_v<Value>) {
      const auto named = static_cast<Value>(value);
      if (std::strcmp(field, about.name) == 0 && is_valid(named)) word = name_of(named);
    }
  });
  return word;
}

// Chooses, and writes one of the choice's settings to a caller's initialised struct.
template <typename CStruct, typename Config>
Result<DenseReason> choose_for(const tokensieve_profile* profile,
                               const tokensieve_layer_call* call, const char* name,
                               CStruct* settings, Config LayerChoice::* member) {
  if (profile == nullptr) return null_argument("profile");
  if (settings == nullptr) return null_argument(name);
  LayerCall layer_call;
  Config before;
  TOKENSIEVE_RETURN_IF_ERROR(from_c(call, layer_call));
  TOKENSIEVE_RETURN_IF_ERROR(from_c(settings, before));  // it was initialised
  const LayerChoice choice = choose(profile->profile, layer_call);
  write_struct(to_c(choice.*member), settings);
  return choice.reason;
}

}  // namespace

extern "C" {

size_t tokensieve_fingerprint_init_sized(tokensieve_fingerprint* out, size_t size) {
  return init(out, size, empty<tokensieve_fingerprint>());
}
size_t tokensieve_layer_call_init_sized(tokensieve_layer_call* out, size_t size) {
  return init(out, size, {.struct_size = sizeof(tokensieve_layer_call), .plain_causal = 1});
}

int32_t tokensieve_select_merge_json(const char* json, tokensieve_select* select,
                                     tokensieve_status* status) {
  return merge_json<SelectConfig>(json, "select", select, status);
}
int32_t tokensieve_blocks_merge_json(const char* json, tokensieve_blocks* blocks,
                                     tokensieve_status* status) {
  return merge_json<BlockConfig>(json, "blocks", blocks, status);
}

int32_t tokensieve_select_to_json(const tokensieve_select* select, char* text, size_t capacity,
                                  size_t* length, tokensieve_status* status) {
  return to_json<SelectConfig>(select, "select", text, capacity, length, status);
}
int32_t tokensieve_blocks_to_json(const tokensieve_blocks* blocks, char* text, size_t capacity,
                                  size_t* length, tokensieve_status* status) {
  return to_json<BlockConfig>(blocks, "blocks", text, capacity, length, status);
}

const char* tokensieve_select_word(const char* field, int32_t value) {
  return word_of<SelectConfig>(field, value);
}
const char* tokensieve_blocks_word(const char* field, int32_t value) {
  return word_of<BlockConfig>(field, value);
}

int32_t tokensieve_profile_load(const char* path, tokensieve_profile** profile,
                                tokensieve_status* status) {
  return create(profile, status, [&]() -> Result<Profile> {
    if (path == nullptr) return null_argument("path");
    return load_profile(path);
  });
}

int32_t tokensieve_profile_parse(const char* json, const char* source_name, int32_t keys,
                                 tokensieve_profile** profile, tokensieve_status* status) {
  return create(profile, status, [&]() -> Result<Profile> {
    if (json == nullptr) return null_argument("json");
    SettingKeys known = SettingKeys::kProfile;
    TOKENSIEVE_RETURN_IF_ERROR(read_keys(keys, known));
    return parse_profile(json, source_name == nullptr ? "profile" : source_name, known);
  });
}

int32_t tokensieve_profile_default(const tokensieve_fingerprint* model,
                                   tokensieve_profile** profile, tokensieve_status* status) {
  return create(profile, status, [&]() -> Result<Profile> {
    ModelFingerprint fingerprint;
    TOKENSIEVE_RETURN_IF_ERROR(from_c(model, fingerprint));
    return default_profile(fingerprint);
  });
}

void tokensieve_profile_free(tokensieve_profile* profile) { delete profile; }

int32_t tokensieve_profile_products(const tokensieve_profile* profile) {
  return static_cast<int32_t>(profile == nullptr ? Products::kAuto : profile->profile.products);
}

int32_t tokensieve_profile_to_json(const tokensieve_profile* profile, int32_t keys, char* text,
                                   size_t capacity, size_t* length, tokensieve_status* status) {
  return guarded(status, [&]() -> Status {
    if (profile == nullptr) return null_argument("profile");
    SettingKeys written = SettingKeys::kProfile;
    TOKENSIEVE_RETURN_IF_ERROR(read_keys(keys, written));
    return copy_text(profile_to_json(profile->profile, written), text, capacity, length);
  });
}

int32_t tokensieve_profile_check(const tokensieve_profile* profile,
                                 const tokensieve_fingerprint* model, tokensieve_status* status) {
  return guarded(status, [&]() -> Status {
    if (profile == nullptr) return null_argument("profile");
    ModelFingerprint fingerprint;
    TOKENSIEVE_RETURN_IF_ERROR(from_c(model, fingerprint));
    return check_fingerprint(profile->profile, fingerprint);
  });
}

int32_t tokensieve_profile_choose(const tokensieve_profile* profile,
                                  const tokensieve_layer_call* call, tokensieve_select* select,
                                  int32_t* reason, tokensieve_status* status) {
  return guarded(status, [&]() -> Status {
    const Result<DenseReason> why =
        choose_for(profile, call, "select", select, &LayerChoice::select);
    if (why.ok() && reason != nullptr) *reason = static_cast<int32_t>(*why);
    return why.status();
  });
}

int32_t tokensieve_profile_choose_blocks(const tokensieve_profile* profile,
                                         const tokensieve_layer_call* call,
                                         tokensieve_blocks* blocks, tokensieve_status* status) {
  return guarded(status, [&]() -> Status {
    return choose_for(profile, call, "blocks", blocks, &LayerChoice::blocks).status();
  });
}

}  // extern "C"
