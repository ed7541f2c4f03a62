#include "common/system.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <string>

namespace tokensieve::cli {
namespace {

// The first line of a small file under /proc or /sys; empty when unreadable.
std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The value of "key 12" or "key: 12 kB" in a file of such lines, in bytes; -1: there is none.
int64_t value_of(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const int64_t number = std::strtoll(line.c_str() + key.size(), nullptr, 10);
    return line.ends_with(" kB") ? number * 1024 : number;
  }
  return -1;
}

int64_t number_in(const std::string& path) {
  return std::strtoll(first_line(path).c_str(), nullptr, 10);
}

int64_t free_in_control_group() {
  constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
  const std::string own = first_line("/proc/self/cgroup");  // "0::/user.slice/..." in version 2
  int64_t least = kUnlimited;
  for (const std::string& group : {std::string(), own.substr(std::min<size_t>(3, own.size()))}) {
    const std::string folder = "/sys/fs/cgroup" + group;
    const std::string limit = first_line(folder + "/memory.max");
    if (limit.empty() || limit == "max") continue;
    const int64_t cache = std::max<int64_t>(0, value_of(folder + "/memory.stat", "inactive_file "));
    const int64_t used = number_in(folder + "/memory.current");
    least = std::min(least, number_in(folder + "/memory.max") - used + cache);
  }
  return least;
}

}  // namespace

int64_t available_memory_bytes() {
  int64_t free = free_in_control_group();
  const int64_t machine = value_of("/proc/meminfo", "MemAvailable:");
  if (machine >= 0) {
    free = std::min(free, machine + std::max<int64_t>(0, value_of("/proc/meminfo", "SwapFree:")));
  }
  rlimit limit = {};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    const int64_t mapped = std::max<int64_t>(0, value_of("/proc/self/status", "VmSize:"));
    free = std::min(free, static_cast<int64_t>(limit.rlim_cur) - mapped);
  }
  return std::max<int64_t>(0, free);
}

int default_threads() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string siblings =
        first_line(fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu));
    cores.insert(siblings.empty() ? fmt::format("cpu{}", cpu) : siblings);
  }
  return std::max<int>(1, static_cast<int>(cores.size()));
}

int64_t anonymous_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssAnon:")) return std::stoll(line.substr(8)) * 1024;
  }
  return 0;
}

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
