// Any mask is split as its definition asks (tests/adapters/mask_properties.h).
//
// Random bits hardly ever make a causal run, so the input is a program that writes rows: repeat the
// row above, repeat it with one more cell, or change cells.
#include <cstdio>
#include <cstdlib>

#include "adapters/mask_properties.h"
#include "bytes.h"

using namespace tokensieve;
using tokensieve::fuzz::Bytes;

namespace {

constexpr uint16_t kValues[] = {0, 0x8000, ggml::kMaskedBits, 0x3c00, 0x7c00, 0x7e00, 0xfbff};

void write_row(Bytes& bytes, ggml::TestMask& mask, int64_t row) {
  for (int64_t j = 0; row > 0 && j < mask.cells; ++j) mask.at(row, j) = mask.at(row - 1, j);
  const uint8_t op = bytes.take<uint8_t>();
  if (op < 200) {  // one more cell, near the row's own: what prompts look like
    const int64_t cell = (row + op / 16) % mask.cells;
    mask.allow(row, cell);
  } else if (op < 230) {
    for (int changes = op % 4; changes > 0; --changes) {
      const int64_t cell = bytes.range(0, mask.cells - 1);
      mask.at(row, cell) = kValues[bytes.take<uint8_t>() % std::size(kValues)];
    }
  } else if (op < 240) {
    mask.at(row, bytes.range(0, mask.cells - 1)) = bytes.take<uint16_t>();
  } else if (op < 245) {
    for (int64_t j = 0; j < mask.cells; ++j) mask.at(row, j) = ggml::kMaskedBits;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  const int64_t rows = bytes.take<uint8_t>();
  const int64_t cells = 1 + bytes.take<uint8_t>();
  ggml::TestMask mask(rows, cells, bytes.take<uint8_t>() % 4);
  const bool force_bias = bytes.take<uint8_t>() == 1;
  for (int64_t row = 0; row < rows; ++row) write_row(bytes, mask, row);

  ggml::MaskAnalysis analysis;
  ggml::analyze_mask(mask.view(), force_bias, serial_executor(), analysis);
  const std::string error = ggml::check_analysis(mask, force_bias, analysis);
  if (!error.empty()) std::fprintf(stderr, "%s\n", error.c_str());
  FUZZ_REQUIRE(error.empty());
  return 0;
}
