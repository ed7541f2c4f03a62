#include "eval/results.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/json_fields.h"

namespace tokensieve::eval {
namespace {

// What two runs must share to be one. Not here: the date, the machine, the command's spelling.
constexpr const char* kIdentity[] = {"type",    "format", "model", "seed",
                                     "tasks", "lengths", "cases", "configs"};

constexpr std::string_view kHeaderStart = "{\"type\":\"run\"";

Status file_error(const std::string& path, const char* what) {
  return Status::error(StatusCode::kNotFound, "cannot %s %s: %s", what, path.c_str(),
                       std::strerror(errno));
}

Status damaged(const std::string& path, size_t line, const std::string& why) {
  return Status::error(StatusCode::kDataError,
                       "%s:%zu: %s; the file was not changed: repair or remove that line, or write "
                       "to another file with -o",
                       path.c_str(), line, why.c_str());
}

Result<std::string> read_all(int fd, const std::string& path) {
  std::string text;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return file_error(path, "read");
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
}

std::string shortened(const Json& value) {
  const std::string text = value.dump();
  return text.size() <= 100 ? text : text.substr(0, 97) + "...";
}

// Configurations by their names; other values as they are.
Json names(const Json& value) {
  if (!value.is_array() || value.empty() || !value[0].is_object()) return value;
  Json list = Json::array();
  for (const Json& item : value) {
    const bool named = item.is_object() && item.contains("name");
    list.push_back(named ? item["name"] : Json("?"));
  }
  return list;
}

// The part of two values that differs, so that a message names it and not a whole profile.
std::string difference(const std::string& where, const Json& before, const Json& now) {
  if (before.type() == now.type() && (before.is_object() || before.is_array()) &&
      before.size() == now.size()) {
    for (const auto& [key, value] : before.items()) {
      const Json* other = nullptr;
      if (now.is_object() && now.contains(key)) other = &now[key];
      if (now.is_array()) other = &now[std::stoul(key)];
      if (other != nullptr && *other != value) return difference(where + "." + key, value, *other);
    }
  }
  return fmt::format("{} is {} there and {} here", where, shortened(names(before)),
                     shortened(names(now)));
}

Status check_header(const std::string& path, const Json& before, const Json& now) {
  if (!before.is_object() || !before.contains("type") || before["type"] != "run") {
    return Status::error(StatusCode::kDataError,
                         "%s is not a results file (it does not begin with a \"run\" line); name "
                         "another file with -o",
                         path.c_str());
  }
  for (const char* key : kIdentity) {
    const Json old = before.contains(key) ? before[key] : Json();
    const Json present = now.contains(key) ? now[key] : Json();
    if (old == present) continue;
    return Status::error(StatusCode::kInvalidArgument,
                         "%s holds another run: %s; name another file with -o (a report may show "
                         "several)",
                         path.c_str(), difference(key, old, present).c_str());
  }
  return {};
}

bool is_result(const Json& line) {
  return line.contains("task") && line["task"].is_string() && line.contains("config") &&
         line["config"].is_string() && line.contains("length") &&
         line["length"].is_number_integer() && line.contains("case") &&
         line["case"].is_number_integer();
}

}  // namespace

ResultsFile::ResultsFile(ResultsFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      resumed_(other.resumed_),
      earlier_(std::move(other.earlier_)) {}

ResultsFile::~ResultsFile() {
  if (fd_ >= 0) ::close(fd_);
}

Result<ResultsFile> ResultsFile::open(const std::string& path, const Json& header) {
  ResultsFile file;
  file.path_ = path;
  file.fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file.fd_ < 0) return file_error(path, "write");
  struct stat info = {};
  if (::fstat(file.fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
    return Status::error(StatusCode::kInvalidArgument, "%s is not a regular file", path.c_str());
  }
  if (::flock(file.fd_, LOCK_EX | LOCK_NB) != 0) {
    return Status::error(StatusCode::kInvalidArgument,
                         "another run is writing %s; wait for it or name another file with -o",
                         path.c_str());
  }
  TOKENSIEVE_RETURN_IF_ERROR(file.read(header));
  if (!file.resumed_) TOKENSIEVE_RETURN_IF_ERROR(file.append(header));
  return file;
}

Status ResultsFile::read(const Json& header) {
  Result<std::string> text = read_all(fd_, path_);
  if (!text.ok()) return text.status();
  size_t begin = 0;
  for (size_t number = 1; begin < text->size(); ++number) {
    const size_t end = text->find('\n', begin);
    if (end == std::string::npos) break;  // torn
    const std::string_view text_of_line = std::string_view(*text).substr(begin, end - begin);
    Result<Json> parsed = parse_json(text_of_line, "the line");
    Json line = parsed.ok() ? std::move(parsed.value()) : Json();
    if (number == 1) {
      TOKENSIEVE_RETURN_IF_ERROR(check_header(path_, line, header));
      resumed_ = true;
    } else if (!parsed.ok()) {
      return damaged(path_, number, parsed.status().message());
    } else if (!line.is_object() || !line.contains("type") || !line["type"].is_string()) {
      return damaged(path_, number, "not a JSON object with a \"type\"");
    } else if (line["type"] == "run") {
      return damaged(path_, number, "a second header: two runs were mixed");
    } else if (line["type"] == "result" && !is_result(line)) {
      return damaged(path_, number, "a result without task, length, case and config");
    } else {
      earlier_.push_back(std::move(line));
    }
    begin = end + 1;
  }
  if (begin == text->size()) return {};
  // Not even the header is whole: cut off only what is the beginning of one.
  if (!resumed_ && !text->starts_with(kHeaderStart)) return check_header(path_, Json(), header);
  if (::ftruncate(fd_, static_cast<off_t>(begin)) != 0) return file_error(path_, "write");
  return {};
}

Status ResultsFile::append(const Json& line) {
  // An answer cut inside a character must not make its line unreadable.
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(fd_, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return Status::error(StatusCode::kInternal,
                           "cannot write %s: %s; finished results are kept, the same command goes "
                           "on",
                           path_.c_str(), std::strerror(errno));
    }
    done += static_cast<size_t>(n);
  }
  return {};
}

std::string result_key(std::string_view task, int32_t length, int32_t index,
                       std::string_view config) {
  return fmt::format("{}/{}/{}/{}", task, length, index, config);
}

std::string result_key(const Json& line) {
  return result_key(line["task"].get<std::string>(), line["length"].get<int32_t>(),
                    line["case"].get<int32_t>(), line["config"].get<std::string>());
}

}  // namespace tokensieve::eval
