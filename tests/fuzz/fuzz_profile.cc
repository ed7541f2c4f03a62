// Any text is a valid profile or an error that names its source; valid ones survive a round trip.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "bytes.h"
#include "tokensieve/profile.h"

using namespace tokensieve;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Result<Profile> profile =
      parse_profile(std::string(reinterpret_cast<const char*>(data), size), "input.json");
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
