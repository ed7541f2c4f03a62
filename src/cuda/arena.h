// Regions of one piece of memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tokensieve::cuda {

// Hands out regions one behind the other.
class Arena {
 public:
  explicit Arena(uintptr_t base) : next_(base) {}

  template <typename T>
  T* take(int64_t count, size_t alignment = 256) {
    next_ = (next_ + alignment - 1) / alignment * alignment;
    const uintptr_t begin = next_;
    next_ += static_cast<size_t>(count) * sizeof(T);
    return reinterpret_cast<T*>(begin);
  }
  uintptr_t end() const { return next_; }

 private:
  uintptr_t next_;
};

}  // namespace tokensieve::cuda
