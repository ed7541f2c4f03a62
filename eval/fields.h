// Typed members of one JSON object; the first error is remembered and names the key.
#pragma once

#include <cmath>
#include <concepts>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace tokensieve::cli::eval {

class Fields {
 public:
  using Json = nlohmann::ordered_json;

  // `error` outlives this object and the nested ones that share it.
  Fields(const Json& object, std::string& error) : object_(object), error_(error) {
    if (!object.is_object()) fail("a value that should be an object is " + sample(object));
  }

  bool ok() const { return error_.empty(); }
  bool has(const char* key) const { return object_.is_object() && object_.contains(key); }
  const Json& at(const char* key) const { return has(key) ? object_[key] : null(); }

  void fail(const std::string& what) {
    if (error_.empty()) error_ = what;
  }

  // An absent member keeps what `out` holds.
  template <typename T>
  void read(const char* key, T& out) {
    if (has(key) && !convert(object_[key], out)) {
      fail(std::string("\"") + key + "\" is " + sample(object_[key]) +
           "; allowed: " + allowed(out));
    }
  }

  // Calls `visit(element)` for every element of an array; an absent one is empty.
  template <typename Visit>
  void each(const char* key, const Visit& visit) {
    if (!has(key)) return;
    if (!object_[key].is_array()) {
      return fail(std::string("\"") + key + "\" is " + sample(object_[key]) +
                  "; allowed: an array");
    }
    for (const Json& element : object_[key]) visit(element);
  }

 private:
  static const Json& null() {
    static const Json value;
    return value;
  }
  static std::string sample(const Json& value) { return value.dump().substr(0, 40); }

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
  static bool convert(const Json& value, int32_t& out) {
    if (!value.is_number_integer()) return false;
    const double number = value.get<double>();
    if (number < 0 || number > INT32_MAX) return false;
    out = value.get<int32_t>();
    return true;
  }
  static bool convert(const Json& value, int64_t& out) {
    if (!value.is_number_integer()) return false;
    out = value.get<int64_t>();
    return out >= 0;
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

  static const char* allowed(const std::string&) { return "a string"; }
  static const char* allowed(bool) { return "true or false"; }
  static const char* allowed(double) { return "a finite number"; }
  template <std::integral T>
  static const char* allowed(T) {
    return "an integer from 0";
  }
  static const char* allowed(const std::pair<int32_t, int32_t>&) { return "[first, last]"; }
  template <typename T>
  static std::string allowed(const std::vector<T>&) {
    return std::string("an array; each element ") + allowed(T{});
  }

  const Json& object_;
  std::string& error_;
};

}  // namespace tokensieve::cli::eval
