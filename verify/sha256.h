// SHA-256 (FIPS 180-4): whether generated inputs are those that a golden file was made with.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace tokensieve::verify {

class Sha256 {
 public:
  void add(std::span<const std::byte> bytes);
  std::string hex();  // ends the message

 private:
  void add_block(const std::byte* block);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::vector<std::byte> rest_;  // of less than a block
  uint64_t bytes_ = 0;
};

}  // namespace tokensieve::verify
