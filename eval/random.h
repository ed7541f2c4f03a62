// Random draws that are the same on every machine, which <random>'s distributions are not.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace tokensieve::eval {

class Random {  // splitmix64
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  uint32_t next32() { return static_cast<uint32_t>(next() >> 32); }

  // 0 .. n-1. The bias of at most n / 2^32 does not matter here.
  uint32_t below(uint32_t n) {
    return static_cast<uint32_t>((static_cast<uint64_t>(next32()) * n) >> 32);
  }

  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) {
      std::swap(values[i - 1], values[below(static_cast<uint32_t>(i))]);
    }
  }

  // `count` different values, in random order.
  template <typename Values>
  std::vector<typename Values::value_type> sample(const Values& values, size_t count) {
    std::vector<typename Values::value_type> all(values.begin(), values.end());
    shuffle(all);
    all.resize(count);
    return all;
  }

 private:
  uint64_t state_;
};

// Mixes one more value into a seed.
inline uint64_t mix_seed(uint64_t seed, uint64_t value) { return Random(seed ^ value).next(); }
inline uint64_t mix_seed(uint64_t seed, std::string_view text) {
  for (const char c : text) seed = mix_seed(seed, static_cast<uint8_t>(c));
  return seed;
}

}  // namespace tokensieve::eval
