// SelectConfig and BlockConfig as JSON objects.
#pragma once

#include <string>

#include "core/json_fields.h"
#include "tokensieve/blocks.h"
#include "tokensieve/select.h"

namespace tokensieve {

enum class SettingKeys {
  kProfile,  // what profiles hold: no policies of a call; written: only what is used
  kAll,      // every field
};

// What the object does not name stays as it is in `settings`; after an error all does.
Status read_settings(const Json& object, const std::string& where, SettingKeys keys,
                     SelectConfig& settings);
Status read_settings(const Json& object, const std::string& where, SettingKeys keys,
                     BlockConfig& settings);
Json settings_json(const SelectConfig& settings, SettingKeys keys);
Json settings_json(const BlockConfig& settings, SettingKeys keys);

}  // namespace tokensieve
