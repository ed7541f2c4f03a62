// SelectConfig and BlockConfig as JSON objects.
#pragma once

#include <string>
#include <type_traits>

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

// Calls visit(about, value) for every field.
template <typename Settings, typename Visit>
void each_setting(Settings& settings, Visit&& visit) {
  if constexpr (std::is_same_v<std::remove_const_t<Settings>, BlockConfig>) {
    for_each_block_field(settings, visit);
  } else {
    for_each_field(settings, visit);
  }
}

}  // namespace tokensieve
