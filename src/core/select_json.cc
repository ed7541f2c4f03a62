#include "core/select_json.h"

#include "core/validate.h"

namespace tokensieve {
namespace {

bool has_key(const SelectField& field, SelectKeys keys) {
  return keys == SelectKeys::kAll || field.group != SelectField::Group::kCall;
}

template <typename T>
void read_field(JsonFields& fields, const SelectField& about, T& value) {
  if constexpr (std::integral<T> && !std::same_as<T, bool>) {
    if (!fields.has(about.name)) return;
    const Json& json = fields.at(about.name);
    T number = 0;
    if (!JsonFields::read_integer(json, static_cast<int64_t>(about.most), number) ||
        !about.allows(static_cast<double>(number))) {
      return fields.refuse(about.name, json, std::string("an integer, ") + about.allowed);
    }
    value = number;
  } else {
    fields.read(about.name, value);
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
  if (!fields.ok()) return fields.status();
  SelectConfig read = select;
  for_each_field(read, [&](const SelectField& about, auto& value) {
    if (has_key(about, keys)) read_field(fields, about, value);
  });
  if (!fields.ok()) return fields.status();
  const Status valid = validate_select(read);
  if (!valid.ok()) {
    return Status::error(StatusCode::kDataError, "%s: %s", where.c_str(), valid.message());
  }
  select = read;
  return {};
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
