// JSON from outside: parsed within limits, then read member by member.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "tokensieve/names.h"
#include "tokensieve/status.h"

namespace tokensieve {

using Json = nlohmann::ordered_json;

enum class JsonKeys { kAny, kUnique };  // JSON itself allows a key twice, and keeps one of them

// The only way in for JSON that others wrote. An error begins with `where`. Printing and comparing
// values recurse, so that the depth is bounded here.
template <typename AnyJson = Json>
Result<AnyJson> parse_json(std::string_view text, const std::string& where,
                           JsonKeys keys = JsonKeys::kAny) {
  constexpr int kMaxDepth = 64;
  bool deep = false;
  std::string twice;
  std::vector<std::set<std::string>> seen;  // keys by depth
  const auto callback = [&](int depth, typename AnyJson::parse_event_t event, AnyJson& value) {
    deep = deep || depth > kMaxDepth;
    if (deep || keys == JsonKeys::kAny) return !deep;
    const auto level = static_cast<size_t>(depth);
    if (event == AnyJson::parse_event_t::object_start) {
      seen.resize(level + 1);
      seen.emplace_back();
    } else if (event == AnyJson::parse_event_t::key) {
      auto name = value.template get<std::string>();
      if (twice.empty() && seen[level].contains(name)) twice = "\"" + name.substr(0, 48) + "\"";
      seen[level].insert(std::move(name));
    }
    return true;
  };
  AnyJson root = AnyJson::parse(text, callback, /*allow_exceptions=*/false);
  if (deep) {
    return Status::error(StatusCode::kDataError, "%s nests values more than %d levels deep",
                         where.c_str(), kMaxDepth);
  }
  if (root.is_discarded()) {
    return Status::error(StatusCode::kDataError, "%s is not valid JSON", where.c_str());
  }
  if (!twice.empty()) {
    return Status::error(StatusCode::kDataError, "%s has the key %s twice", where.c_str(),
                         twice.c_str());
  }
  return root;
}

// Reads members and keeps the first error, which names `where`, the key and what is allowed. A
// member that is absent leaves `out` as it is.
class JsonFields {
 public:
  JsonFields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) fail("is not a JSON object: " + sample(object));
  }

  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }
  const std::string& where() const { return where_; }
  bool has(const char* key) const { return object_.is_object() && object_.contains(key); }
  const Json& at(const char* key) const { return object_.at(key); }

  void fail(const std::string& what) {
    if (!status_.ok()) return;
    status_ = Status::error(StatusCode::kDataError, "%s: %s", where_.c_str(), what.c_str());
  }
  // The error of a nested object, which names its own place.
  void adopt(const Status& nested) {
    if (status_.ok()) status_ = nested;
  }
  void refuse(const char* key, const Json& value, const std::string& allowed) {
    fail(std::string(key) + " is " + sample(value) + "; allowed: " + allowed);
  }

  void require(std::initializer_list<const char*> keys) {
    for (const char* key : keys) {
      if (!has(key)) fail(std::string(key) + " is missing");
    }
  }
  template <typename Known>  // bool(const std::string& key)
  void reject_unknown(const Known& known) {
    if (!object_.is_object()) return;
    for (const auto& item : object_.items()) {
      if (!known(item.key())) fail("unknown key \"" + item.key().substr(0, 60) + "\"");
    }
  }
  void reject_unknown(std::initializer_list<const char*> known) {
    reject_unknown([&](const std::string& key) {
      return std::find(known.begin(), known.end(), key) != known.end();
    });
  }

  template <typename T>
  void read(const char* key, T& out) {
    if (has(key) && !convert(at(key), out)) refuse(key, at(key), allowed(out));
  }
  template <typename E>
    requires std::is_enum_v<E>
  void read(const char* key, E& out) {
    if (!has(key)) return;
    const auto value =
        at(key).is_string() ? parse<E>(at(key).get<std::string>()) : std::optional<E>();
    if (!value) return refuse(key, at(key), allowed_words<E>());
    out = *value;
  }
  template <std::integral T>
    requires(!std::same_as<T, bool>)
  void read(const char* key, T& out, int64_t most) {
    if (!has(key) || read_integer(at(key), most, out)) return;
    refuse(key, at(key), "an integer from 0 to " + std::to_string(most));
  }

  // Calls `visit(element)` for every element of an array; an absent one is empty.
  template <typename Visit>
  void each(const char* key, const Visit& visit) {
    if (!has(key)) return;
    if (!at(key).is_array()) return refuse(key, at(key), "an array");
    for (const Json& element : at(key)) visit(element);
  }

  // Whether `value` is an integer from 0 to `most`.
  template <std::integral T>
  static bool read_integer(const Json& value, int64_t most, T& out) {
    if (!value.is_number_integer()) return false;
    if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(most)) {
      return false;
    }
    const int64_t number = value.get<int64_t>();
    if (number < 0 || number > most) return false;
    out = static_cast<T>(number);
    return true;
  }
  static std::string sample(const Json& value) {
    return value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 40);
  }

 private:
  static bool convert(const Json& value, std::string& out) {
    if (!value.is_string()) return false;
    out = value.get<std::string>();
    return true;
  }
  static bool convert(const Json& value, bool& out) {
    if (!value.is_boolean()) return false;
    out = value.get<bool>();
    return true;
  }
  static bool convert(const Json& value, double& out) {
    if (!value.is_number()) return false;
    out = value.get<double>();
    return std::isfinite(out);
  }
  template <std::signed_integral T>
  static bool convert(const Json& value, T& out) {
    return read_integer(value, std::numeric_limits<T>::max(), out);
  }
  static bool convert(const Json& value, uint64_t& out) {
    if (!value.is_number_unsigned()) return false;
    out = value.get<uint64_t>();
    return true;
  }
  // [first, last]
  static bool convert(const Json& value, std::pair<int32_t, int32_t>& out) {
    return value.is_array() && value.size() == 2 && convert(value[0], out.first) &&
           convert(value[1], out.second);
  }
  template <typename T>
  static bool convert(const Json& value, std::vector<T>& out) {
    if (!value.is_array()) return false;
    out.clear();
    for (const Json& element : value) {
      T item{};
      if (!convert(element, item)) return false;
      out.push_back(std::move(item));
    }
    return true;
  }

  static std::string allowed(const std::string&) { return "a string"; }
  static std::string allowed(bool) { return "true or false"; }
  static std::string allowed(double) { return "a finite number"; }
  template <std::integral T>
  static std::string allowed(T) {
    return "an integer from 0 to " + std::to_string(std::numeric_limits<T>::max());
  }
  static std::string allowed(const std::pair<int32_t, int32_t>&) { return "[first, last]"; }
  template <typename T>
  static std::string allowed(const std::vector<T>&) {
    return "an array; each element " + allowed(T{});
  }

  const Json& object_;
  std::string where_;
  Status status_;
};

}  // namespace tokensieve
