// Typed members of a JSON object.
#pragma once

#include <algorithm>
#include <concepts>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <utility>

#include "tokensieve/names.h"
#include "tokensieve/status.h"

namespace tokensieve {

using Json = nlohmann::ordered_json;

// Any text as JSON, or an error that begins with `where`. Printing a value recurses, so that the
// depth is bounded here.
inline Result<Json> parse_json(const std::string& text, const std::string& where) {
  constexpr int kMaxDepth = 64;
  bool deep = false;
  const auto callback = [&deep](int depth, Json::parse_event_t, const Json&) {
    deep = deep || depth > kMaxDepth;
    return !deep;
  };
  Json root = Json::parse(text, callback, /*allow_exceptions=*/false);
  if (deep) {
    return Status::error(StatusCode::kDataError, "%s nests values more than %d levels deep",
                         where.c_str(), kMaxDepth);
  }
  if (root.is_discarded()) {
    return Status::error(StatusCode::kDataError, "%s is not valid JSON", where.c_str());
  }
  return root;
}

// Reads members and keeps the first error, which names `where`, the key and what is allowed. A
// member that is absent leaves `out` as it is.
class JsonFields {
 public:
  JsonFields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) fail("is not a JSON object");
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

  void read(const char* key, std::string& out) {
    if (!has(key)) return;
    if (!at(key).is_string()) return refuse(key, at(key), "a string");
    out = at(key).get<std::string>();
  }
  void read(const char* key, bool& out) {
    if (!has(key)) return;
    if (!at(key).is_boolean()) return refuse(key, at(key), "true or false");
    out = at(key).get<bool>();
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
  const Json& object_;
  std::string where_;
  Status status_;
};

}  // namespace tokensieve
