#include "eval/schema.h"

#include <concepts>

#include "core/json_fields.h"

namespace tokensieve::eval {
namespace {

struct Ignore {
  void operator()(const char*, auto&) {}
  void required(const char*, auto&) {}
  void always(const char*, auto&) {}
};

template <typename T>
concept Record = requires(T& record, Ignore& visit) { members(record, visit); };
template <typename T>
inline constexpr bool kIsList = false;
template <typename T>
inline constexpr bool kIsList<std::vector<T>> = Record<T>;

class Reader {
 public:
  Reader(const Json& object, std::string where) : fields_(object, std::move(where)) {}

  const Status& status() const { return fields_.status(); }

  template <typename T>
  void required(const char* name, T& member) {
    fields_.require({name});
    (*this)(name, member);
  }

  template <typename T>
  void always(const char* name, T& member) {
    (*this)(name, member);
  }

  template <typename T>
  void operator()(const char* name, T& member) {
    if (!fields_.has(name)) return;
    if constexpr (std::same_as<T, Json>) {
      member = fields_.at(name);
    } else if constexpr (Record<T>) {
      read_record(name, fields_.at(name), member);
    } else if constexpr (kIsList<T>) {
      fields_.each(name, [&](const Json& element) {
        read_record(name, element, member.emplace_back());
      });
    } else {
      fields_.read(name, member);
    }
  }

  template <typename T>
  void operator()(const char* name, std::optional<T>& member) {
    if (!fields_.has(name) || fields_.at(name).is_null()) return;
    (*this)(name, member.emplace());
  }

 private:
  template <typename T>
  void read_record(const char* name, const Json& json, T& member) {
    Reader reader(json, fields_.where() + ": " + name);
    members(member, reader);
    fields_.adopt(reader.status());
  }

  JsonFields fields_;
};

class Writer {
 public:
  explicit Writer(Json& object) : object_(object) {}

  template <typename T>
  void required(const char* name, T& member) {
    object_[name] = value(member);
  }

  template <typename T>
  void always(const char* name, T& member) {
    object_[name] = value(member);
  }

  template <typename T>
  void operator()(const char* name, T& member) {
    if constexpr (requires { member.empty(); }) {
      if (member.empty()) return;  // Json: null
    }
    object_[name] = value(member);
  }

  template <typename T>
  void operator()(const char* name, std::optional<T>& member) {
    if (member) (*this)(name, *member);
  }

 private:
  template <typename T>
  static Json value(T& member) {
    if constexpr (Record<T>) {
      Json object = Json::object();
      Writer writer(object);
      members(member, writer);
      return object;
    } else if constexpr (kIsList<T>) {
      Json list = Json::array();
      for (auto& element : member) list.push_back(value(element));
      return list;
    } else {
      return Json(member);
    }
  }

  Json& object_;
};

}  // namespace

template <typename Line>
Json to_json(const Line& line) {
  Json object = Json::object();
  if constexpr (requires { Line::kType; }) object["type"] = Line::kType;
  Writer writer(object);
  Line copy = line;  // members() serves readers too
  members(copy, writer);
  return object;
}

template <typename Line>
Status read_line(const Json& json, const std::string& where, Line& line) {
  Reader reader(json, where);
  members(line, reader);
  return reader.status();
}

#define TOKENSIEVE_LINE(Line)               \
  template Json to_json<Line>(const Line&); \
  template Status read_line<Line>(const Json&, const std::string&, Line&)
TOKENSIEVE_LINE(HeaderLine);
TOKENSIEVE_LINE(ModelLine);
TOKENSIEVE_LINE(CaseResult);
TOKENSIEVE_LINE(KeptTokens);
TOKENSIEVE_LINE(DriftLine);
TOKENSIEVE_LINE(TuneStep);
TOKENSIEVE_LINE(ResolvedLine);
#undef TOKENSIEVE_LINE

}  // namespace tokensieve::eval
