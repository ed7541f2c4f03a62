// The profile's JSON with a choice of keys: files hold those of the model, programs that keep a
// profile in objects of their own also the policies of a call.
#pragma once

#include <string>

#include "core/settings_json.h"
#include "tokensieve/profile.h"

namespace tokensieve {

Result<Profile> parse_profile(const std::string& json, const std::string& source_name,
                              SettingKeys keys);
std::string profile_to_json(const Profile& profile, SettingKeys keys);

}  // namespace tokensieve
