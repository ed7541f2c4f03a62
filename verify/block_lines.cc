#include "verify/block_lines.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>

#include "core/tiles.h"

namespace tokensieve::verify {
namespace {

struct Lines {
  int64_t count = 0;
  std::vector<int32_t> of_heads;  // [heads, count], ascending

  std::span<const int32_t> of(int64_t head) const {
    return std::span(of_heads).subspan(head * count, count);
  }
};

// Refuses values outside [0, keys).
Status read(const SafeTensors& file, const std::string& name, int64_t heads, int64_t keys,
            Lines& lines) {
  const Result<const SafeTensor*> found = file.get(name, "I32", 2);
  if (!found.ok()) return found.status();
  const SafeTensor& tensor = **found;
  lines.count = tensor.shape[1];
  lines.of_heads.resize(tensor.bytes.size() / sizeof(int32_t));
  std::memcpy(lines.of_heads.data(), tensor.bytes.data(), tensor.bytes.size());
  const auto inside = [keys](int32_t x) { return x >= 0 && x < keys; };
  if (tensor.shape[0] == heads && lines.count > 0 &&
      std::all_of(lines.of_heads.begin(), lines.of_heads.end(), inside)) {
    return {};
  }
  return Status::error(StatusCode::kDataError,
                       "%s: tensor \"%s\" is not [%lld, count] of values in [0, %lld)",
                       file.source_name().c_str(), name.c_str(), (long long)heads,
                       (long long)keys);
}

// Tiles that hold a pair of one of the distances, [tiles, tiles] of a head.
void expect_tiles(std::span<const int32_t> distances, const TileGrid& grid, uint8_t* expected) {
  for (const int64_t distance : distances) {
    for (int64_t row = distance; row < grid.keys; ++row) {
      expected[row / kBlock * grid.row_tiles() + (row - distance) / kBlock] = 1;
    }
  }
}

// minference_v60_s260, or minference_adaptive0.1: of the length.
Status read_sizes(const std::string& method, const Lines& verticals, const Lines& distances,
                  BlockConfig& blocks) {
  blocks.verticals = verticals.count;
  blocks.slashes = distances.count;
  const std::string adaptive = "adaptive";
  const size_t at = method.find(adaptive);
  if (at == std::string::npos) return {};
  const char* first = method.data() + at + adaptive.size();
  const auto [stop, error] =
      std::from_chars(first, method.data() + method.size(), blocks.slash_ratio);
  if (error == std::errc()) return {};
  return Status::error(StatusCode::kDataError, "\"%s\" has no number behind adaptive",
                       method.c_str());
}

}  // namespace

Status read_lines(const SafeTensors& file, const std::string& method, BlockEntry& entry,
                  const BlockGolden& golden) {
  const int64_t heads = golden.inputs.shape.num_q_heads;
  const TileGrid grid = {0, entry.on_tokens ? golden.kept : golden.inputs.shape.seqlen_kv};
  Lines verticals, distances;
  TOKENSIEVE_RETURN_IF_ERROR(read(file, entry.name + ".verticals", heads, grid.keys, verticals));
  TOKENSIEVE_RETURN_IF_ERROR(read(file, entry.name + ".distances", heads, grid.keys, distances));
  entry.blocks.pattern = BlockPattern::kVerticalSlash;
  TOKENSIEVE_RETURN_IF_ERROR(read_sizes(method, verticals, distances, entry.blocks));

  entry.tiles = grid.row_tiles();
  const int64_t size = entry.tiles * entry.tiles;
  entry.expected.resize(static_cast<size_t>(heads * size));
  entry.margin.assign(entry.expected.size(), std::numeric_limits<double>::infinity());
  TileCount count;
  for (int64_t h = 0; h < heads; ++h) {
    uint8_t* expected = entry.expected.data() + h * size;
    expect_tiles(distances.of(h), grid, expected);
    for (int64_t t = 0; t < entry.tiles; ++t) {
      const uint8_t* row = expected + t * entry.tiles;
      count.visible += t + 1;
      count.visited += std::count(row, row + t + 1, uint8_t{1});
      for (const int32_t j : verticals.of(h)) {
        count.columns += j / kBlock <= t && row[j / kBlock] == 0;
      }
    }
  }
  entry.density = count.density();
  return {};
}

}  // namespace tokensieve::verify
