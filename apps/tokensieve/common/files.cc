#include "common/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

namespace tokensieve::cli {
namespace {

// Length of the well-formed UTF-8 sequence at the start of `s` (Unicode table 3-7), or 0.
size_t sequence_length(std::string_view s) {
  const auto byte = [&](size_t i) { return i < s.size() ? static_cast<uint8_t>(s[i]) : 0; };
  const auto tail = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const uint8_t lead = byte(0);
  if (lead == 0) return 0;  // NUL: a binary file
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return tail(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const bool overlong = lead == 0xE0 && byte(1) < 0xA0;
    const bool surrogate = lead == 0xED && byte(1) > 0x9F;
    return tail(1) && tail(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const bool overlong = lead == 0xF0 && byte(1) < 0x90;
    const bool too_large = lead == 0xF4 && byte(1) > 0x8F;
    return tail(1) && tail(2) && tail(3) && !overlong && !too_large ? 4 : 0;
  }
  return 0;
}

// Where a path leads.
struct Target {
  std::string path;
  bool in_place = false;  // a device or a pipe: nothing may take its place
};

Result<Target> target_of(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (std::filesystem::is_directory(status)) {
    return Status::error(StatusCode::kInvalidArgument,
                         "cannot write %s: it is a folder; name a file in it", path.c_str());
  }
  if (!std::filesystem::exists(status)) return Target{path};
  if (!std::filesystem::is_regular_file(status)) return Target{path, true};
  const std::filesystem::path real = std::filesystem::canonical(path, error);
  return Target{error ? path : real.string()};  // a link stays a link
}

// By errno.
Status cannot_write(const std::string& path) {
  return Status::error(StatusCode::kInternal, "cannot write %s: %s; nothing was changed",
                       path.c_str(), std::strerror(errno));
}

std::string temporary_beside(const std::string& path) {
  return path + ".tmp-" + std::to_string(::getpid());
}

int create(const std::string& path) {
  return ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
}

bool write_all(int fd, const std::string& content) {
  for (size_t done = 0; done < content.size();) {
    const ssize_t n = ::write(fd, content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

size_t first_invalid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = sequence_length(text.substr(i, 4));
    if (length == 0) return i;
    i += length;
  }
  return std::string_view::npos;
}

Result<std::string> read_text(const std::string& path) {
  std::string text;
  if (path == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) {
      return Status::error(StatusCode::kNotFound, "%s is a folder; name text files in it",
                           path.c_str());
    }
    std::ifstream file(path, std::ios::binary);
    if (!file) {
      return Status::error(StatusCode::kNotFound, "cannot open %s: %s", path.c_str(),
                           std::strerror(errno));
    }
    text.assign(std::istreambuf_iterator<char>(file), {});
  }
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // says "UTF-8", and is no text
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  if (text.empty()) {
    return Status::error(StatusCode::kDataError, "%s is empty; a document needs some text",
                         path.c_str());
  }
  if (const size_t bad = first_invalid_utf8(text); bad != std::string::npos) {
    return Status::error(StatusCode::kDataError,
                         "%s is not UTF-8 text (byte 0x%02x at offset %zu); convert it, for "
                         "example with iconv or pdftotext",
                         path.c_str(), static_cast<uint8_t>(text[bad]), bad);
  }
  return text;
}

Status check_writable(const std::string& path) {
  const Result<Target> target = target_of(path);
  if (!target.ok()) return target.status();
  if (target->in_place) return ::access(path.c_str(), W_OK) == 0 ? Status() : cannot_write(path);
  const std::string temporary = temporary_beside(target->path);
  const int fd = create(temporary);
  if (fd < 0) return cannot_write(path);
  ::close(fd);
  ::unlink(temporary.c_str());
  return {};
}

Status write_atomically(const std::string& path, const std::string& content) {
  const Result<Target> target = target_of(path);
  if (!target.ok()) return target.status();
  const std::string temporary = temporary_beside(target->path);
  const int fd = target->in_place ? ::open(path.c_str(), O_WRONLY | O_CLOEXEC) : create(temporary);
  if (fd < 0) return cannot_write(path);
  bool ok = write_all(fd, content) && (target->in_place || ::fsync(fd) == 0);
  Status error = cannot_write(path);
  if (::close(fd) != 0 && ok) {
    error = cannot_write(path);
    ok = false;
  }
  if (target->in_place) return ok ? Status() : error;
  if (ok && ::rename(temporary.c_str(), target->path.c_str()) != 0) {
    error = cannot_write(path);
    ok = false;
  }
  if (ok) return {};
  ::unlink(temporary.c_str());
  return error;
}

}  // namespace tokensieve::cli
