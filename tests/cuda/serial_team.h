// The Team of select/bins.h that tests on the host use.
#pragma once

#include <cstdint>

namespace tokensieve::cuda {

// A team of one: the host's.
class SerialTeam {
 public:
  int thread() const { return 0; }
  int threads() const { return 1; }
  int lane() const { return 0; }
  uint64_t lane_sum(uint64_t x) const { return x; }
  void sync() const {}
  void cluster_sync() const {}
  uint32_t add(uint32_t* where, uint32_t value) const {
    const uint32_t before = *where;
    *where += value;
    return before;
  }
  uint64_t total(const uint32_t* where) const { return *where; }
  uint32_t concatenate(const uint32_t* own, const uint32_t* size, uint32_t* all) const {
    for (uint32_t i = 0; i < *size; ++i) all[i] = own[i];
    return *size;
  }
  void least_of(uint32_t* where, uint32_t value) const {
    if (value < *where) *where = value;
  }
  template <class T>
  T exclusive_scan(const T& own, T* all) const {
    *all = own;
    return {};
  }
};

}  // namespace tokensieve::cuda
