// Any text is a valid profile or an error that names its source; valid ones survive a round trip.
// The C functions do what the C++ ones do.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "bytes.h"
#include "tokensieve/profile.h"
#include "tokensieve/tokensieve_profile_c.h"

using namespace tokensieve;

namespace {

std::string to_json(const tokensieve_profile* profile, int32_t keys) {
  size_t length = 0;
  FUZZ_REQUIRE(tokensieve_profile_to_json(profile, keys, nullptr, 0, &length, nullptr) == 0);
  std::string text(length + 1, '?');
  FUZZ_REQUIRE(
      tokensieve_profile_to_json(profile, keys, text.data(), length + 1, &length, nullptr) == 0);
  FUZZ_REQUIRE(text.back() == '\0' && length + 1 == text.size());
  text.pop_back();
  return text;
}

// Every layer and a few calls: the settings that are chosen are valid.
void require_choices(const tokensieve_profile* profile, const Profile& expected) {
  for (int32_t layer = -1; layer < 8; ++layer) {
    for (const int64_t rows : {int64_t{1}, int64_t{300}, int64_t{9000}}) {
      tokensieve_layer_call call;
      tokensieve_layer_call_init(&call);
      call.layer = layer;
      call.seqlen_q = rows;
      call.seqlen_kv = 9000;
      tokensieve_select select;
      tokensieve_select_init(&select);
      int32_t reason = -1;
      FUZZ_REQUIRE(tokensieve_profile_choose(profile, &call, &select, &reason, nullptr) == 0);
      const LayerChoice choice = choose(expected, {layer, rows, 9000});
      FUZZ_REQUIRE(reason == static_cast<int32_t>(choice.reason));
      FUZZ_REQUIRE(select.enabled == choice.select.enabled);
      FUZZ_REQUIRE(!choice.select.enabled || layer != 0);
      const AttentionShape shape{.seqlen_q = rows, .seqlen_kv = 9000, .num_q_heads = 1,
                                 .num_kv_heads = 1, .head_dim = 16};
      FUZZ_REQUIRE(
          make_plan(shape, choice.select, choice.blocks, {.backend = Backend::kRef}).ok());
      tokensieve_blocks blocks;
      tokensieve_blocks_init(&blocks);
      FUZZ_REQUIRE(tokensieve_profile_choose_blocks(profile, &call, &blocks, nullptr) == 0);
      FUZZ_REQUIRE(blocks.pattern == static_cast<int32_t>(choice.blocks.pattern));
    }
  }
}

void through_c(const std::string& text, const Result<Profile>& expected) {
  tokensieve_status status;
  tokensieve_status_init(&status);
  tokensieve_profile* profile = nullptr;
  const int32_t code = tokensieve_profile_parse(text.c_str(), "input.json",
                                                TOKENSIEVE_KEYS_PROFILE, &profile, &status);
  FUZZ_REQUIRE(code == static_cast<int32_t>(expected.status().code()));
  FUZZ_REQUIRE(std::string(status.message) == expected.status().message());
  FUZZ_REQUIRE((profile != nullptr) == expected.ok());
  if (profile == nullptr) return;
  FUZZ_REQUIRE(to_json(profile, TOKENSIEVE_KEYS_PROFILE) == profile_to_json(*expected));
  const std::string all = to_json(profile, TOKENSIEVE_KEYS_ALL);
  require_choices(profile, *expected);
  tokensieve_profile_free(profile);
  FUZZ_REQUIRE(
      tokensieve_profile_parse(all.c_str(), nullptr, TOKENSIEVE_KEYS_ALL, &profile, nullptr) == 0);
  FUZZ_REQUIRE(to_json(profile, TOKENSIEVE_KEYS_ALL) == all);
  tokensieve_profile_free(profile);
}

// Settings by name: an error changes nothing, and what was taken comes back.
template <typename Settings, typename Merge, typename ToJson>
void merge(const std::string& text, Settings settings, const Merge& merge_json,
           const ToJson& to_text) {
  Settings before = settings;
  tokensieve_status status;
  tokensieve_status_init(&status);
  const int32_t code = merge_json(text.c_str(), &settings, &status);
  if (code != TOKENSIEVE_OK) {
    FUZZ_REQUIRE(code == TOKENSIEVE_INVALID_ARGUMENT && status.message[0] != '\0');
    FUZZ_REQUIRE(std::memcmp(&settings, &before, sizeof(settings)) == 0);
    return;
  }
  char all[1024];
  size_t length = 0;
  FUZZ_REQUIRE(to_text(&settings, all, sizeof(all), &length, nullptr) == 0);
  FUZZ_REQUIRE(length < sizeof(all));
  FUZZ_REQUIRE(merge_json(all, &before, nullptr) == 0);
  FUZZ_REQUIRE(std::memcmp(&settings, &before, sizeof(settings)) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const Result<Profile> profile = parse_profile(text, "input.json");
  // A C string ends at its first 0.
  if (text.find('\0') == std::string::npos) through_c(text, profile);
  tokensieve_select select;
  tokensieve_select_init(&select);
  merge(text, select, tokensieve_select_merge_json, tokensieve_select_to_json);
  tokensieve_blocks blocks;
  tokensieve_blocks_init(&blocks);
  merge(text, blocks, tokensieve_blocks_merge_json, tokensieve_blocks_to_json);
  if (!profile.ok()) {
    FUZZ_REQUIRE(profile.status().code() == StatusCode::kDataError);
    FUZZ_REQUIRE(std::string(profile.status().message()).find("input.json") == 0);
    return 0;
  }
  FUZZ_REQUIRE(!profile->is_sparse(0));
  const std::string json = profile_to_json(*profile);
  const Result<Profile> again = parse_profile(json, "again");
  FUZZ_REQUIRE(again.ok());
  FUZZ_REQUIRE(profile_to_json(*again) == json);
  FUZZ_REQUIRE(check_fingerprint(*profile, profile->fingerprint).ok());
  return 0;
}
