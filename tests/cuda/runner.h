// A tiny test runner for the GPU binary: checks by name, run by several threads at once.
#pragma once

#include <cstdio>
#include <mutex>
#include <sstream>
#include <string>

namespace tokensieve::cuda::test {

// Everything, printed one behind the other.
template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

class Runner {
 public:
  // An empty problem is a pass. Prints failures as they come.
  void check(const std::string& name, const std::string& problem) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (problem.empty()) {
      ++passed_;
      return;
    }
    ++failed_;
    std::printf("FAILED %s: %s\n", name.c_str(), problem.c_str());
    std::fflush(stdout);
  }
  int passed() const { return passed_; }
  int failed() const { return failed_; }

 private:
  std::mutex mutex_;
  int passed_ = 0;
  int failed_ = 0;
};

}  // namespace tokensieve::cuda::test
