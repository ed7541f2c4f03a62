#include "core/select_json.h"

namespace tokensieve {
namespace {

bool has_key(const SelectField& field, SelectKeys keys) {
  return keys == SelectKeys::kAll || field.group != SelectField::Group::kCall;
}

template <typename T>
void read_field(JsonFields& fields, const SelectField& about, T& value) {
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

}  // namespace

Status read_select(const Json& object, const std::string& where, SelectKeys keys,
                   SelectConfig& select) {
  JsonFields fields(object, where);
  fields.reject_unknown([&](const std::string& key) {
    bool known = false;
    for_each_field(select, [&](const SelectField& about, const auto&) {
      known = known || (key == about.name && has_key(about, keys));
    });
    return known;
  });
  SelectConfig read = select;
  for_each_field(read, [&](const SelectField& about, auto& value) {
    if (has_key(about, keys)) read_field(fields, about, value);
  });
  if (fields.ok()) select = read;
  return fields.status();
}

Json select_json(const SelectConfig& select, SelectKeys keys) {
  Json object = Json::object();
  for_each_field(select, [&](const SelectField& about, const auto& value) {
    if (!has_key(about, keys)) return;
    if (keys == SelectKeys::kAll || about.used_by(select)) object[about.name] = json_of(value);
  });
  return object;
}

}  // namespace tokensieve
