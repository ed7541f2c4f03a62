#include "common/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace tokensieve::cli {
namespace {

// errno of the first write to standard output that failed: stdio keeps only a flag.
int g_error = 0;

void note_error(bool failed) {
  if (failed && g_error == 0) g_error = errno;
}

}  // namespace

void hold_standard_streams() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) != -1 || errno != EBADF) continue;
    // The lowest free number is this one. Open for the wrong direction, so that its use fails.
    [[maybe_unused]] const int held =
        ::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

void write_out(fmt::string_view text) {
  note_error(std::fwrite(text.data(), 1, text.size(), stdout) < text.size());
}

void write_err(fmt::string_view text) {
  note_error(std::fflush(stdout) != 0);
  std::fwrite(text.data(), 1, text.size(), stderr);
}

Status flush_output() {
  note_error(std::fflush(stdout) != 0);
  if (g_error == 0 && std::ferror(stdout) == 0) return {};
  return Status::error(StatusCode::kInternal, "cannot write standard output: %s",
                       g_error != 0 ? std::strerror(g_error) : "a part of it is lost");
}

}  // namespace tokensieve::cli
