#include "core/settings_json.h"

namespace tokensieve {
namespace {

bool has_key(const SelectField& field, SettingKeys keys) {
  return keys == SettingKeys::kAll || field.group != SelectField::Group::kCall;
}
bool has_key(const BlockField&, SettingKeys) { return true; }

template <typename Field, typename T>
void read_field(JsonFields& fields, const Field& about, T& value) {
  if constexpr (std::is_enum_v<T> || std::is_same_v<T, bool>) {
    fields.read(about.name, value);
  } else if (fields.has(about.name)) {
    const Json& json = fields.at(about.name);
    constexpr bool kIsInteger = std::integral<T>;
    if ((kIsInteger ? json.is_number_integer() : json.is_number()) &&
        about.allows(json.get<double>())) {
      value = json.get<T>();
    } else {
      fields.refuse(about.name, json,
                    std::string(kIsInteger ? "an integer, " : "a number, ") + about.allowed);
    }
  }
}

template <typename T>
Json json_of(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return name_of(value);
  } else {
    return value;
  }
}

template <typename Settings>
Status read(const Json& object, const std::string& where, SettingKeys keys, Settings& settings) {
  JsonFields fields(object, where);
  fields.reject_unknown([&](const std::string& key) {
    bool known = false;
    for_each_field(settings, [&](const auto& about, const auto&) {
      known = known || (key == about.name && has_key(about, keys));
    });
    return known;
  });
  Settings read = settings;
  for_each_field(read, [&](const auto& about, auto& value) {
    if (has_key(about, keys)) read_field(fields, about, value);
  });
  if (fields.ok()) settings = read;
  return fields.status();
}

template <typename Settings>
Json written(const Settings& settings, SettingKeys keys) {
  Json object = Json::object();
  for_each_field(settings, [&](const auto& about, const auto& value) {
    if (!has_key(about, keys)) return;
    if (keys == SettingKeys::kAll || about.used_by(settings)) object[about.name] = json_of(value);
  });
  return object;
}

}  // namespace

Status read_settings(const Json& object, const std::string& where, SettingKeys keys,
                     SelectConfig& settings) {
  return read(object, where, keys, settings);
}
Status read_settings(const Json& object, const std::string& where, SettingKeys keys,
                     BlockConfig& settings) {
  return read(object, where, keys, settings);
}

Json settings_json(const SelectConfig& settings, SettingKeys keys) {
  return written(settings, keys);
}
Json settings_json(const BlockConfig& settings, SettingKeys keys) {
  return written(settings, keys);
}

}  // namespace tokensieve
