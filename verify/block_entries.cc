#include "verify/block_entries.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>

#include "core/tiles.h"
#include "verify/block_lines.h"

namespace tokensieve::verify {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// The number behind a letter of a name such as xattention_s16_t0.9; `out` if there is none.
double parameter(const std::string& name, char letter, double out) {
  for (size_t at = name.find('_'); at != std::string::npos; at = name.find('_', at + 1)) {
    if (at + 2 >= name.size() || name[at + 1] != letter) continue;
    const char* first = name.data() + at + 2;
    double value = 0;
    const auto [stop, error] = std::from_chars(first, name.data() + name.size(), value);
    if (error == std::errc() && (*stop == '_' || *stop == '\0')) return value;
  }
  return out;
}

// [masks, tiles, tiles] of bool or f32.
template <typename T>
Status read_tiles(const SafeTensors& file, const std::string& name, int64_t masks, int64_t tiles,
                  std::vector<T>& out) {
  const Result<const SafeTensor*> found = file.get(name, sizeof(T) == 1 ? "BOOL" : "F32", 3);
  if (!found.ok()) return found.status();
  const SafeTensor& tensor = **found;
  if (tensor.shape != std::vector<int64_t>{masks, tiles, tiles}) {
    return Status::error(StatusCode::kDataError, "%s: tensor \"%s\" is not [%lld, %lld, %lld]",
                         file.source_name().c_str(), name.c_str(), (long long)masks,
                         (long long)tiles, (long long)tiles);
  }
  out.resize(tensor.bytes.size() / sizeof(T));
  std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
  return {};
}

// One row tile of XAttention's choice: the first and the diagonal tile, then the largest others
// until `threshold` of the row is covered. first_chunk: as the official code treats its first
// chunk, where the diagonal's mark overwrites the first column's, mass counts one tile late and the
// first tile comes in the end.
struct Choice {
  std::span<const float> scores;  // of the tiles up to the diagonal
  double threshold;
  bool first_chunk = false;

  void make(uint8_t* visited, double* margin) const {
    const size_t diagonal = scores.size() - 1;
    const double total = std::accumulate(scores.begin(), scores.end(), 0.0);
    const double required = threshold * total;
    visited[diagonal] = 1;
    double covered = scores[diagonal];
    if (!first_chunk && diagonal != 0) {
      visited[0] = 1;
      covered += scores[0];
    }
    std::vector<size_t> others;
    for (size_t c = 0; c < diagonal; ++c) {
      if (!visited[c]) others.push_back(c);
    }
    std::stable_sort(others.begin(), others.end(),
                     [this](size_t a, size_t b) { return scores[a] > scores[b]; });
    const auto enough = [&](double mass) { return mass >= required; };
    size_t taken = 0;
    std::vector<double> before;  // mass before each of the others
    for (size_t c : others) {
      before.push_back(covered);
      if (!enough(covered)) ++taken;
      covered += scores[c];
    }
    if (first_chunk && required > 0) taken = std::min(taken + 1, others.size());
    for (size_t i = 0; i < others.size(); ++i) {
      visited[others[i]] = i < taken;
      // The tile on the other side of the cut, which may swap places with this one.
      const size_t other = i < taken ? taken : taken - 1;
      const double swap =
          other < others.size() ? std::abs(scores[others[i]] - scores[others[other]]) : kInf;
      margin[others[i]] = std::min(std::abs(required - before[i]), swap) / total;
    }
    visited[0] = 1;
  }
};

// What the scores of the official code choose by our rule, and whether its own mask is what they
// choose by the rule of its first chunk.
Status read_antidiagonal(const SafeTensors& file, BlockEntry& entry, BlockGolden& golden) {
  const int64_t masks = golden.inputs.shape.num_q_heads, n = entry.tiles;
  std::vector<float> scores;
  TOKENSIEVE_RETURN_IF_ERROR(read_tiles(file, entry.name + ".scores", masks, n, scores));
  std::vector<uint8_t> own(entry.expected.size()), quirk(own.size());
  std::vector<double> ignored(own.size());
  int64_t both = 0, any = 0;
  for (int64_t row = 0; row < masks * n; ++row) {
    const std::span<const float> tiles(&scores[row * n], static_cast<size_t>(row % n + 1));
    Choice{tiles, entry.blocks.threshold}.make(&own[row * n], &entry.margin[row * n]);
    Choice{tiles, entry.blocks.threshold, true}.make(&quirk[row * n], &ignored[row * n]);
    for (int64_t i = row * n; i < row * n + n; ++i) {
      both += quirk[i] && entry.expected[i];
      any += quirk[i] || entry.expected[i];
    }
  }
  const double jaccard = static_cast<double>(both) / static_cast<double>(any);
  golden.checks.push_back({entry.name, "1 - Jaccard", 1.0 - jaccard, kBlockMiss,
                           fmt::format("its mask by its scores and the official rule of a first "
                                       "chunk, Jaccard {:.4f}; below: our rule on its scores",
                                       jaccard)});
  entry.expected = own;
  return {};
}

// SeerAttention's gates of 64 x 64 tiles as scores of 128 x 128: the largest of those under the
// diagonal, so that a tile is visited where one of them is.
Status read_gates(const SafeTensors& file, const std::string& name, BlockGolden& golden) {
  BlockEntry entry = {.name = name + ".by_threshold"};
  entry.blocks = {.pattern = BlockPattern::kScores, .threshold = parameter(name, 't', 0.0),
                  .dense_rows = kBlock};
  const int64_t masks = golden.inputs.shape.num_q_heads, n = golden.inputs.shape.seqlen_kv;
  const int64_t fine = (n + 63) / 64;
  if (n % kBlock != 0) {
    entry.not_covered = "n is no multiple of 128: its last two rows of 64 x 64 tiles are not ours";
    golden.entries.push_back(entry);
    return {};
  }
  entry.tiles = tiles_of(n);
  std::vector<float> gate;
  std::vector<uint8_t> mask;
  TOKENSIEVE_RETURN_IF_ERROR(read_tiles(file, name + ".gate", masks, fine, gate));
  TOKENSIEVE_RETURN_IF_ERROR(read_tiles(file, entry.name, masks, fine, mask));
  const auto size = static_cast<size_t>(masks * entry.tiles * entry.tiles);
  entry.scores.resize(size);
  entry.expected.resize(size);
  entry.margin.assign(size, kInf);
  for (int64_t m = 0; m < masks; ++m) {
    for (int64_t t = 0; t < fine; ++t) {
      for (int64_t c = 0; c <= t; ++c) {
        const int64_t from = (m * fine + t) * fine + c;
        const int64_t to = (m * entry.tiles + t / 2) * entry.tiles + c / 2;
        entry.scores[to] = std::max(entry.scores[to], gate[from]);
        entry.expected[to] |= mask[from];
      }
    }
  }
  golden.entries.push_back(std::move(entry));
  golden.entries.push_back(
      {.name = name + ".by_ratio", .not_covered = "no estimator takes a share of a row's tiles"});
  return {};
}

// flashprefill?_a0.18, with other tiles that are always visited flashprefill?_a0.18_s2_w4_l2.
void read_pooled(const std::string& method, BlockConfig& blocks) {
  blocks.pattern = BlockPattern::kPooled;
  blocks.alpha = parameter(method, 'a', blocks.alpha);
  blocks.sink_tiles = static_cast<int32_t>(parameter(method, 's', blocks.sink_tiles));
  blocks.window_tiles = static_cast<int32_t>(parameter(method, 'w', blocks.window_tiles));
  blocks.last_tiles = static_cast<int32_t>(parameter(method, 'l', blocks.last_tiles));
}

// Fills entry.blocks or entry.not_covered.
void choose_estimator(const SafeTensors& file, const std::string& method, BlockEntry& entry,
                      const BlockGolden& golden) {
  const std::string& name = entry.name;
  BlockConfig& blocks = entry.blocks;
  if (method.starts_with("flexprefill_")) {
    blocks.pattern = BlockPattern::kFlex;
    blocks.gamma = parameter(method, 'g', blocks.gamma);
    blocks.flex_tau = parameter(method, 't', blocks.flex_tau);
    blocks.min_budget = static_cast<int64_t>(parameter(method, 'b', 1024));
  } else if (method.starts_with("xattention_") && method.find("_chunk") != std::string::npos) {
    entry.not_covered = "the official code masks all chunks before the last out here";
  } else if (method.starts_with("xattention_")) {
    blocks.pattern = BlockPattern::kAntidiagonal;
    blocks.stride = static_cast<int32_t>(parameter(method, 's', 16));
    blocks.threshold = parameter(method, 't', blocks.threshold);
  } else if (method.starts_with("flashprefill1_")) {
    read_pooled(method, blocks);
  } else if (method.starts_with("flashprefill2_")) {
    read_pooled(method, blocks);
    blocks.share = Share::kKv;
    const Result<const SafeTensor*> mask = file.get(name + ".mask", "BOOL", 3);
    if (mask.ok() && (*mask)->shape[1] != tiles_of(golden.inputs.shape.seqlen_kv)) {
      entry.not_covered = "its row tiles are 128 rows of a group's heads, ours 128 tokens";
    }
  } else if (method.starts_with("minference_") && file.has(name + ".distances")) {
    blocks.pattern = BlockPattern::kVerticalSlash;
  } else {
    entry.not_covered = "no such estimator";
  }
}

}  // namespace

Status read_block_entries(const SafeTensors& file, const std::string& name, BlockGolden& golden) {
  if (name.starts_with("seer_")) return read_gates(file, name, golden);
  BlockEntry entry = {.name = name};
  entry.on_tokens = name.starts_with("tokens_");
  const std::string method = entry.on_tokens ? name.substr(7) : name;
  choose_estimator(file, method, entry, golden);
  if (entry.not_covered.empty() && entry.on_tokens && golden.tokens.empty()) {
    entry.not_covered = "the file has no tokens.indices";
  }
  if (entry.not_covered.empty() && entry.blocks.pattern == BlockPattern::kVerticalSlash) {
    TOKENSIEVE_RETURN_IF_ERROR(read_lines(file, method, entry, golden));
  } else if (entry.not_covered.empty()) {
    const AttentionShape& s = golden.inputs.shape;
    const bool kv = entry.blocks.share == Share::kKv;
    const int64_t masks = kv ? s.num_kv_heads : s.num_q_heads;
    entry.tiles = tiles_of(entry.on_tokens ? golden.kept : s.seqlen_kv);
    TOKENSIEVE_RETURN_IF_ERROR(
        read_tiles(file, name + ".mask", masks, entry.tiles, entry.expected));
    entry.margin.assign(entry.expected.size(), kInf);
    if (entry.blocks.pattern == BlockPattern::kAntidiagonal && !golden.exact) {
      TOKENSIEVE_RETURN_IF_ERROR(read_antidiagonal(file, entry, golden));
    }
  }
  golden.entries.push_back(std::move(entry));
  return {};
}

}  // namespace tokensieve::verify
