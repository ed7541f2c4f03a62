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

Status write_atomically(const std::string& path, const std::string& content) {
  const std::string temporary = path + ".tmp-" + std::to_string(::getpid());
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  bool ok = fd >= 0;
  for (size_t done = 0; ok && done < content.size();) {
    const ssize_t n = ::write(fd, content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    ok = n > 0;
    if (ok) done += static_cast<size_t>(n);
  }
  ok = ok && ::fsync(fd) == 0;
  int error = errno;
  if (fd >= 0) ::close(fd);
  if (ok && ::rename(temporary.c_str(), path.c_str()) != 0) {
    error = errno;
    ok = false;
  }
  if (ok) return {};
  if (fd >= 0) ::unlink(temporary.c_str());
  return Status::error(StatusCode::kInternal, "cannot write %s: %s; nothing was changed",
                       path.c_str(), std::strerror(error));
}

}  // namespace tokensieve::cli
