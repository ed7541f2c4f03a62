// Reads a fuzzer's input as typed values; zeros once it is used up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

namespace tokensieve::fuzz {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  bool empty() const { return size_ == 0; }

  template <typename T>
  T take() {
    T value = {};
    const size_t bytes = size_ < sizeof(T) ? size_ : sizeof(T);
    std::memcpy(&value, data_, bytes);
    data_ += bytes;
    size_ -= bytes;
    return value;
  }

  // A number from `low` to `high`.
  int64_t range(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(take<uint32_t>() % static_cast<uint64_t>(high - low + 1));
  }

  // `usual`, unless the input asks for something odd: a corner value or any bits at all.
  template <typename T>
  T odd_or(T usual) {
    switch (take<uint8_t>()) {
      case 1: return T{0};
      case 2: return T(-1);
      case 3: return std::numeric_limits<T>::max();
      case 4: return std::numeric_limits<T>::lowest();
      case 5: return std::numeric_limits<T>::has_quiet_NaN ? std::numeric_limits<T>::quiet_NaN()
                                                           : T{1};
      case 6: return take<T>();
      case 7: return T(usual + 1);
      default: return usual;
    }
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

// Ends the process, as a fuzzer expects, when a property does not hold.
#define FUZZ_REQUIRE(condition)                                                         \
  do {                                                                                  \
    if (!(condition)) {                                                                 \
      std::fprintf(stderr, "%s:%d: %s is false\n", __FILE__, __LINE__, #condition);     \
      std::abort();                                                                     \
    }                                                                                   \
  } while (false)

}  // namespace tokensieve::fuzz
