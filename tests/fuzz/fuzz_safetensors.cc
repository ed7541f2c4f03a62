// Any file is a valid safetensors file or an error; tensors lie inside the file.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bytes.h"
#include "verify/safetensors.h"

using namespace tokensieve;
using verify::SafeTensors;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::byte> file(size);
  if (size > 0) std::memcpy(file.data(), data, size);
  const std::byte* const begin = file.data();
  const Result<SafeTensors> parsed = SafeTensors::parse(std::move(file), "input.safetensors");
  if (!parsed.ok()) {
    FUZZ_REQUIRE(parsed.status().code() == StatusCode::kDataError);
    FUZZ_REQUIRE(std::strstr(parsed.status().message(), "input.safetensors") != nullptr);
    return 0;
  }
  unsigned sum = 0;
  for (const auto& [name, tensor] : parsed->tensors()) {
    const std::byte* const at = tensor.bytes.data();
    FUZZ_REQUIRE(tensor.bytes.empty() ||
                 (at >= begin && at + tensor.bytes.size() <= begin + size));
    for (const std::byte byte : tensor.bytes) sum += static_cast<unsigned>(byte);
    FUZZ_REQUIRE(parsed->get(name, tensor.dtype, tensor.shape.size()).ok());
    FUZZ_REQUIRE(!parsed->get(name, "X1", tensor.shape.size()).ok());
  }
  FUZZ_REQUIRE(sum <= 255u * size);
  FUZZ_REQUIRE(!parsed->get("no such tensor", "F32", 1).ok());
  return 0;
}
