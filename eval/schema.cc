#include "eval/schema.h"

#include <concepts>

#include "eval/fields.h"

namespace tokensieve::cli::eval {
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
  Reader(const Json& object, std::string& error) : fields_(object, error), error_(error) {}

  template <typename T>
  void required(const char* name, T& member) {
    if (!fields_.has(name)) return fields_.fail(std::string("\"") + name + "\" is missing");
    (*this)(name, member);
  }

  template <typename T>
  void always(const char* name, T& member) {
    (*this)(name, member);
  }

  template <typename T>
  void operator()(const char* name, T& member) {
    if (!fields_.has(name)) return;
    const Json& json = fields_.at(name);
    if constexpr (std::same_as<T, Json>) {
      member = json;
    } else if constexpr (Record<T>) {
      std::string error;
      Reader reader(json, error);
      members(member, reader);
      if (!error.empty()) fields_.fail(std::string("in \"") + name + "\", " + error);
    } else if constexpr (kIsList<T>) {
      fields_.each(name, [&](const Json& element) {
        Reader reader(element, error_);
        members(member.emplace_back(), reader);
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
  Fields fields_;
  std::string& error_;
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
std::string read_line(const Json& json, Line& line) {
  std::string error;
  Reader reader(json, error);
  members(line, reader);
  return error;
}

#define TOKENSIEVE_LINE(Line)                \
  template Json to_json<Line>(const Line&);  \
  template std::string read_line<Line>(const Json&, Line&)
TOKENSIEVE_LINE(HeaderLine);
TOKENSIEVE_LINE(ModelLine);
TOKENSIEVE_LINE(CaseResult);
TOKENSIEVE_LINE(KeptTokens);
TOKENSIEVE_LINE(DriftLine);
TOKENSIEVE_LINE(TuneStep);
TOKENSIEVE_LINE(ResolvedLine);
#undef TOKENSIEVE_LINE

}  // namespace tokensieve::cli::eval
