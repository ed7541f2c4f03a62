// Memory of a run: arrays out of the caller's workspace.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tokensieve::cpu {

// Panels and exponentials of several heads are held at once while they fit: fewer phases, and
// still within a last-level cache.
inline constexpr int64_t kPhaseBytes = int64_t{16} << 20;

inline int64_t divide_up(int64_t x, int64_t y) { return (x + y - 1) / y; }
inline int64_t round_up(int64_t x, int64_t step) { return divide_up(x, step) * step; }

// Hands out 64-byte aligned arrays of a buffer; with a null base it only measures.
class Arena {
 public:
  explicit Arena(std::byte* base) : base_(base) {
    if (base != nullptr) used_ = (kAlign - reinterpret_cast<uintptr_t>(base) % kAlign) % kAlign;
  }

  template <typename T>
  T* take(int64_t count) {
    T* at = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return at;
  }
  size_t used() const { return used_; }
  void rewind(size_t used) { used_ = used; }

  static constexpr size_t kAlign = 64;

 private:
  std::byte* base_;
  size_t used_ = 0;
};

}  // namespace tokensieve::cpu
