#include "common/system.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <string>
#include <string_view>

namespace tokensieve::cli {
namespace {

// The beginning of a file under /proc or /sys. Nothing is allocated, and the stack hardly grows:
// how much memory is free is also asked when none is. What cannot be read is empty.
class SmallFile {
 public:
  explicit SmallFile(const char* path) {
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    while (size_ < sizeof(text_)) {
      const ssize_t n = ::read(fd, text_ + size_, sizeof(text_) - size_);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      size_ += static_cast<size_t>(n);
    }
    ::close(fd);
    if (size_ == sizeof(text_)) size_ = text().rfind('\n') + 1;  // whole lines
  }

  std::string_view first_line() const { return text().substr(0, text().find('\n')); }

  // The value of "key 12" or "key: 12 kB", in bytes; -1: there is none.
  int64_t value_of(std::string_view key) const {
    for (std::string_view rest = text(); !rest.empty();) {
      const std::string_view line = rest.substr(0, rest.find('\n'));
      if (line.starts_with(key)) {
        return number(line.substr(key.size())) * (line.ends_with(" kB") ? 1024 : 1);
      }
      rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    }
    return -1;
  }

  int64_t number() const { return number(first_line()); }

 private:
  std::string_view text() const { return {text_, size_}; }

  static int64_t number(std::string_view digits) {
    digits.remove_prefix(std::min(digits.size(), digits.find_first_not_of(" \t")));
    int64_t value = 0;
    std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return value;
  }

  char text_[4096];  // far more than what we look for is from the start
  size_t size_ = 0;
};

int64_t status_of_process(std::string_view key) {
  return std::max<int64_t>(0, SmallFile("/proc/self/status").value_of(key));
}

// `group`: "" for the root, else "/user.slice/...".
SmallFile control_file(std::string_view group, const char* name) {
  char path[PATH_MAX];
  std::snprintf(path, sizeof(path), "/sys/fs/cgroup%.*s/%s", static_cast<int>(group.size()),
                group.data(), name);
  return SmallFile(path);
}

int64_t free_in_control_group() {
  constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
  const SmallFile groups("/proc/self/cgroup");
  const std::string_view own = groups.first_line();  // "0::/user.slice/..." in version 2
  int64_t least = kUnlimited;
  const std::string_view group_of_process = own.substr(std::min<size_t>(3, own.size()));
  for (const std::string_view group : {std::string_view(), group_of_process}) {
    const SmallFile limit = control_file(group, "memory.max");
    if (limit.first_line().empty() || limit.first_line() == "max") continue;
    const int64_t cache =
        std::max<int64_t>(0, control_file(group, "memory.stat").value_of("inactive_file "));
    const int64_t used = control_file(group, "memory.current").number();
    least = std::min(least, limit.number() - used + cache);
  }
  return least;
}

}  // namespace

int64_t available_memory_bytes() {
  int64_t free = free_in_control_group();
  const SmallFile machine("/proc/meminfo");
  if (const int64_t available = machine.value_of("MemAvailable:"); available >= 0) {
    free = std::min(free, available + std::max<int64_t>(0, machine.value_of("SwapFree:")));
  }
  rlimit limit = {};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    free = std::min(free, static_cast<int64_t>(limit.rlim_cur) - status_of_process("VmSize:"));
  }
  return std::max<int64_t>(0, free);
}

int default_threads() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string name = fmt::format("cpu{}", cpu);
    const SmallFile siblings(
        fmt::format("/sys/devices/system/cpu/{}/topology/thread_siblings_list", name).c_str());
    const std::string_view line = siblings.first_line();
    cores.insert(line.empty() ? name : std::string(line));
  }
  return std::max<int>(1, static_cast<int>(cores.size()));
}

int64_t anonymous_memory_bytes() { return status_of_process("RssAnon:"); }

std::string describe_gpus() {
  std::error_code error;
  std::string names;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", error)) {
    std::ifstream information(entry.path() / "information");
    for (std::string line; std::getline(information, line);) {
      if (!line.starts_with("Model:")) continue;
      line.erase(0, line.find_first_not_of(" \t", 6));
      names += (names.empty() ? "" : ", ") + line;
    }
  }
  return names.empty() ? "none" : names;
}

}  // namespace tokensieve::cli
