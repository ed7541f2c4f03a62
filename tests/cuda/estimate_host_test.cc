// The CUDA estimators' index arithmetic and selection on the host: cuda/blocks/*.h are the source
// that the device compiles, products are done here as the kernels lay them out. Against the oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cuda/blocks/fewest.h"
#include "cuda/blocks/rules.h"
#include "cuda/blocks/search.h"
#include "cuda/serial_team.h"
#include "ref/estimate.h"

namespace tokensieve::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Mask {
  explicit Mask(const TileGrid& grid)
      : words(static_cast<int>(mask_words_of(grid.key_tiles()))),
        bits(static_cast<size_t>(grid.row_tiles() * words)) {}
  MaskRows rows() { return {bits.data(), words}; }
  int words;
  std::vector<uint32_t> bits;
};

// A head whose queries attend to some tokens far back, to their neighbours and to distance 300.
ref::HeadRows make_head(int64_t first_row, int64_t keys, int seed, double sharpness) {
  ref::HeadRows head = {.grid = {first_row, keys}, .dim = 16};
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  head.k.resize(static_cast<size_t>(keys * head.dim));
  head.q.resize(static_cast<size_t>(head.grid.rows() * head.dim));
  for (double& x : head.k) x = normal(random);
  for (int64_t row = 0; row < head.grid.rows(); ++row) {
    const int64_t position = first_row + row;
    const int64_t wanted[] = {position / 3, std::max<int64_t>(0, position - 300),
                              std::min<int64_t>(40, position), position};
    for (int64_t d = 0; d < head.dim; ++d) {
      double x = 0.3 * normal(random);
      for (int64_t key : wanted) x += 0.5 * head.key(key)[d];
      head.q[row * head.dim + d] = sharpness * x / 4;
    }
  }
  return head;
}

float product(const double* a, const double* b, int64_t dim) {
  double sum = 0.0;
  for (int64_t d = 0; d < dim; ++d) sum += a[d] * b[d];
  return static_cast<float>(sum);
}

// ---- selection as the kernels do it, by a team of one

int64_t droppable_of(const std::vector<float>& values, uint64_t rest) {
  SerialTeam team;
  static SearchBins bins;
  int turn = 0;
  const int size = static_cast<int>(values.size());
  return droppable(team, bins, &turn, SharedKeys{values.data(), 0, size}, size, share_range(size),
                   rest, false);
}

uint64_t mass_of(const std::vector<float>& values) {
  SerialTeam team;
  RowMass row;
  const SharedKeys keys = {values.data(), 0, static_cast<int>(values.size())};
  const MassAndState mass = row_mass(team, row, keys);
  EXPECT_TRUE(mass.finite);
  return mass.mass;
}

// Bits of the `wanted` largest from value `begin` on.
std::vector<uint32_t> largest(const std::vector<float>& values, int begin, int64_t wanted) {
  SerialTeam team;
  static SearchBins bins;
  int turn = 0;
  const SharedKeys keys = {values.data(), begin, static_cast<int>(values.size())};
  const Threshold threshold =
      wanted > 0 ? find_threshold(team, bins, &turn, keys, wanted, whole_range(), false)
                 : kNothing;
  std::vector<uint32_t> bits((values.size() + 31) / 32);
  RankedWord word = {};
  for (size_t w = 0; w < bits.size(); ++w) {
    word.above = word.equal = 0;
    for (int bit = 0; bit < 32; ++bit) {
      const uint32_t key = keys.key(static_cast<int>(32 * w) + bit);
      if (key != kNoKey && key > threshold.key) word.above |= 1u << bit;
      if (key == threshold.key) word.equal |= 1u << bit;
    }
    bits[w] = word.kept(threshold.ties);
    word.equal_before += std::popcount(word.equal);
  }
  return bits;
}

// ---- kFlex

struct HostProbe {
  std::vector<float> verticals, diagonals;
};

HostProbe probe(const ref::HeadRows& head) {
  const int64_t n = head.grid.keys, tiles = head.grid.key_tiles();
  HostProbe lines = {std::vector<float>(n), std::vector<float>(tiles * 256)};
  for (int64_t row = 0; row < kBlock; ++row) {
    const int64_t position = n - kBlock + row;
    std::vector<float> p(position + 1);
    float top = -kInfinity, sum = 0.0f;
    for (int64_t j = 0; j <= position; ++j) {
      p[j] = product(head.query(position), head.key(j), head.dim);
      top = std::max(top, p[j]);
    }
    for (float& x : p) sum += x = std::exp(x - top);
    for (int64_t j = 0; j <= position; ++j) {
      const float share = p[j] / sum / kBlock;
      lines.verticals[j] += share;
      lines.diagonals[j / kBlock * 256 + row - j % kBlock + 127] += share;
    }
  }
  return lines;
}

std::vector<float> means(const ref::HeadRows& head, std::span<const double> x) {
  const std::vector<double> exact = ref::tile_means(x, head.dim);
  return {exact.begin(), exact.end()};
}

float mean_product(const float* a, const float* b, int64_t dim) {
  float sum = 0.0f;
  for (int64_t d = 0; d < dim; ++d) sum += a[d] * b[d];
  return sum;
}

// Adds the tiles of the map.
void add_map(const ref::HeadRows& head, double gamma, Mask& mask) {
  const TileGrid& grid = head.grid;
  const std::vector<float> queries = means(head, head.q), keys = means(head, head.k);
  const int64_t width = 32 * mask.words;
  std::vector<float> map(static_cast<size_t>(grid.row_tiles() * width));
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    float top = -kInfinity, sum = 0.0f;
    float* row = &map[t * width];
    for (int64_t c = 0; c < grid.end(t); ++c) {
      row[c] = mean_product(&queries[t * head.dim], &keys[c * head.dim], head.dim);
      top = std::max(top, row[c]);
    }
    for (int64_t c = 0; c < grid.end(t); ++c) sum += row[c] = std::exp(row[c] - top);
    for (int64_t c = 0; c < grid.end(t); ++c) row[c] /= sum;
  }
  const uint64_t rest = rest_of(mass_of(map), gamma);
  if (rest == 0) {
    for (int64_t t = 0; t < grid.row_tiles(); ++t) {
      for (int w = 0; w < mask.words; ++w) {
        mask.bits[t * mask.words + w] |= tiles_below(grid.end(t), w);
      }
    }
    return;
  }
  const std::vector<uint32_t> chosen =
      largest(map, 0, static_cast<int64_t>(map.size()) - droppable_of(map, rest) - 1);
  for (size_t i = 0; i < chosen.size(); ++i) mask.bits[i] |= chosen[i];
}

Mask flex(const ref::HeadRows& head, const BlockConfig& config, double gamma, bool aware) {
  const TileGrid& grid = head.grid;
  Mask mask(grid);
  const HostProbe found = probe(head);
  const ProbeLines lines = {found.verticals.data(), found.diagonals.data(),
                            static_cast<int>(grid.keys)};
  std::vector<uint32_t> chosen[2];
  for (const bool slashes : {false, true}) {
    std::vector<float> values(grid.keys);
    for (int i = 0; i < grid.keys; ++i) values[i] = lines.line(slashes, i);
    const uint64_t rest = rest_of(mass_of(values), gamma);
    const int64_t cover = grid.keys + (rest > 0 ? -droppable_of(values, rest) : 1);
    std::vector<float> sums(grid.key_tiles());
    for (int block = 0; block < grid.key_tiles(); ++block) {
      const int begin = lines.block_begin(slashes, block);
      for (int i = std::max(begin, 0); i < std::min(begin + kBlock, lines.keys); ++i) {
        sums[block] += lines.line(slashes, i);
      }
    }
    const int64_t count =
        aware ? flex_least(config) : flex_tiles(config, cover, grid.key_tiles());
    chosen[slashes] = largest(sums, 1, std::min(count, grid.key_tiles()) - 1);
    chosen[slashes][0] |= 1u;
  }
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    for (int w = 0; w < mask.words; ++w) {
      mask.bits[t * mask.words + w] =
          line_word(grid, t, chosen[0].data(), chosen[1].data(), mask.words, w);
    }
  }
  if (aware) add_map(head, gamma, mask);
  return mask;
}

// ---- kPooled

Mask pooled(std::span<const ref::HeadRows> heads, const BlockConfig& config, double alpha) {
  const TileGrid& grid = heads[0].grid;
  const bool shared = config.share != Share::kHead;
  Mask mask(grid);
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    std::vector<float> energy(grid.key_tiles());
    const int64_t scored =
        t < grid.row_tiles() - config.last_tiles ? pooled_scored(grid, t, shared) : 0;
    std::vector<std::pair<int64_t, float>> logits;
    float top = -kInfinity;
    for (const ref::HeadRows& head : heads) {
      const std::vector<double> keys = ref::tile_means(head.k, head.dim);
      for (int64_t position = grid.row_begin(t); position < grid.row_end(t); ++position) {
        for (int64_t c = 0; c < scored; ++c) {
          if (position < pooled_first_query(grid, c, shared)) continue;
          logits.emplace_back(c, product(head.query(position), &keys[c * head.dim], head.dim));
          top = std::max(top, logits.back().second);
        }
      }
    }
    for (const auto& [c, logit] : logits) energy[c] += std::exp(logit - top);
    const float least =
        static_cast<float>(alpha) * *std::max_element(energy.begin(), energy.end());
    for (int64_t c = 0; c < scored; ++c) {
      if (energy[c] >= least) mask.rows().set(t, c);
    }
    for (int w = 0; w < mask.words; ++w) {
      mask.bits[t * mask.words + w] |= pooled_forced(config, grid, t, w);
    }
  }
  return mask;
}

// ---- kAntidiagonal

struct OneLane {
  static constexpr int kCount = 1;
  int lane() const { return 0; }
  uint64_t sum(uint64_t x) const { return x; }
};
struct Others {
  const float* sums;
  int64_t begin, end;
  uint32_t key(int c) const { return c >= begin && c < end ? score_key(sums[c]) : kNoKey; }
};

Mask antidiagonal(const ref::HeadRows& head, int stride, double threshold) {
  const TileGrid& grid = head.grid;
  const int64_t tile_groups = kBlock / stride;
  Mask mask(grid);
  std::vector<std::vector<float>> sums(grid.row_tiles(), std::vector<float>(grid.key_tiles()));
  for (int64_t g = 0; g < row_groups(grid, stride); ++g) {
    std::vector<float> p(seen_groups(grid, g, stride));
    float top = -kInfinity, total = 0.0f;
    for (int64_t h = 0; h < static_cast<int64_t>(p.size()); ++h) {
      double sum = 0.0;
      for (int64_t i = 0; i < stride; ++i) {
        const int64_t row = grid.first_row + g * stride + stride - 1 - i;
        const int64_t key = h * stride + i;
        if (row < grid.keys && key < grid.keys) {
          sum += product(head.query(row), head.key(key), head.dim);
        }
      }
      p[h] = static_cast<float>(sum / stride);
      top = std::max(top, p[h]);
    }
    for (float& x : p) total += x = std::exp(x - top);
    for (size_t h = 0; h < p.size(); ++h) {
      sums[g / tile_groups][static_cast<int64_t>(h) / tile_groups] += p[h] / total;
    }
  }
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    const Others others = {sums[t].data(), 1, grid.diagonal(t)};
    const FewestTiles fewest =
        fewest_tiles(OneLane{}, others, static_cast<int>(grid.end(t)), threshold);
    uint32_t ties = fewest.ties;
    for (int64_t c = 0; c < grid.end(t); ++c) {
      const uint32_t key = others.key(static_cast<int>(c));
      const bool tie = key == fewest.key && ties > 0;
      if (tie) --ties;
      const bool strong = key != kNoKey && key > fewest.key;
      if (antidiagonal_forced(grid, t, c) || strong || tie) mask.rows().set(t, c);
    }
  }
  return mask;
}

// ---- the tests

// Different tiles, and those that both masks could have.
struct Difference {
  int64_t tiles = 0, of = 0;
};
Difference difference(const TileGrid& grid, Mask& a, Mask& b) {
  Difference found;
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    for (int64_t c = 0; c < grid.end(t); ++c) {
      found.tiles += a.rows().get(t, c) != b.rows().get(t, c);
      ++found.of;
    }
  }
  return found;
}

struct Length {
  int64_t first_row, keys;
};
constexpr Length kLengths[] = {{0, 1},      {0, 127},     {0, 128},     {0, 129},   {0, 300},
                               {0, 1024},   {0, 1025},    {0, 1151},    {0, 4400},  {1, 1025},
                               {700, 1300}, {1000, 1130}, {1000, 1128}, {640, 1280}, {3000, 4321}};

class EstimateHostTest : public testing::TestWithParam<Length> {
 protected:
  ref::HeadRows head(int seed, double sharpness) const {
    return make_head(GetParam().first_row, GetParam().keys, seed, sharpness);
  }
  // f32 against f64: a tile at a threshold may differ.
  void expect_equal(const TileGrid& grid, Mask got, Mask want, const std::string& what) {
    const Difference found = difference(grid, got, want);
    EXPECT_LE(found.tiles, found.of / 500) << what << ": " << found.tiles << " of " << found.of;
  }
};

TEST_P(EstimateHostTest, FlexVisitsTheOraclesTiles) {
  for (const int64_t least : {0, 128, 300}) {
    for (const double sharpness : {1.0, 4.0}) {
      const ref::HeadRows one = head(1, sharpness);
      BlockConfig config;
      config.min_budget = least;
      if (!flex_runs(config, one.grid)) {
        Mask want(one.grid);
        ASSERT_TRUE(ref::flex(one, config, 0.5, want.rows()));
        for (int64_t t = 0; t < one.grid.row_tiles(); ++t) {
          for (int64_t c = 0; c < one.grid.end(t); ++c) EXPECT_TRUE(want.rows().get(t, c));
        }
        continue;
      }
      for (const int64_t most : {0, 200}) {
        for (const double gamma : {0.0, 0.3, 0.9, 0.97, 1.0}) {
          for (const bool aware : {false, true}) {
            config.max_budget = most;
            config.flex_tau = aware ? 2.0 : 0.0;
            Mask want(one.grid);
            ASSERT_TRUE(ref::flex(one, config, gamma, want.rows()));
            expect_equal(one.grid, flex(one, config, gamma, aware), want,
                         "gamma " + std::to_string(gamma) + (aware ? " aware" : ""));
          }
        }
      }
    }
  }
}

TEST_P(EstimateHostTest, PooledVisitsTheOraclesTiles) {
  const std::vector<ref::HeadRows> heads = {head(2, 3.0), head(3, 3.0)};
  for (const double alpha : {0.0, 0.1, 0.7, 1.0}) {
    for (const int last_tiles : {0, 2}) {
      BlockConfig config;
      config.last_tiles = last_tiles;
      Mask want(heads[0].grid);
      ASSERT_TRUE(ref::pooled(heads[0], config, alpha, want.rows()));
      expect_equal(heads[0].grid, pooled({heads.data(), 1}, config, alpha), want, "head");
      config.share = Share::kKv;
      config.sink_tiles = 0;
      config.window_tiles = 1;
      Mask shared(heads[0].grid);
      ASSERT_TRUE(ref::pooled_shared(heads, config, alpha, shared.rows()));
      expect_equal(heads[0].grid, pooled(heads, config, alpha), shared, "kv");
    }
  }
}

TEST_P(EstimateHostTest, AntidiagonalVisitsTheOraclesTiles) {
  for (const int stride : {8, 16, 32}) {
    for (const double threshold : {0.0, 0.5, 0.9, 1.0}) {
      const ref::HeadRows one = head(4, 6.0);
      BlockConfig config;
      config.stride = stride;
      Mask want(one.grid);
      ASSERT_TRUE(ref::antidiagonal(one, config, threshold, want.rows()));
      expect_equal(one.grid, antidiagonal(one, stride, threshold), want,
                   "stride " + std::to_string(stride) + " threshold " +
                       std::to_string(threshold));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Lengths, EstimateHostTest, testing::ValuesIn(kLengths),
                         [](const auto& info) {
                           return std::to_string(info.param.first_row) + "_" +
                                  std::to_string(info.param.keys);
                         });

TEST(FewestTiles, TakesTheFirstOfEqualOnes) {
  const std::vector<float> sums = {0.0f, 1.0f, 1.0f, 1.0f, 1.0f, 0.0f};
  const Others others = {sums.data(), 1, 5};
  const auto of = [&](double threshold) {
    return fewest_tiles(OneLane{}, others, 6, threshold);
  };
  EXPECT_EQ(of(0.5).ties, 2u);
  EXPECT_EQ(of(0.5).key, score_key(1.0f));
  EXPECT_EQ(of(0.51).ties, 3u);
  EXPECT_EQ(of(1.0).ties, 4u);
  EXPECT_EQ(of(0.0).ties, 0u);
  EXPECT_GT(of(0.0).key, score_key(1.0f));
}

TEST(BitsFrom, ReadsAcrossWordsAndBeyondThem) {
  const uint32_t bits[] = {0x80000001u, 0x00000003u};
  EXPECT_EQ(bits_from(bits, 2, 0), 0x80000001u);
  EXPECT_EQ(bits_from(bits, 2, 31), 7u);
  EXPECT_EQ(bits_from(bits, 2, -31), 0x80000000u);
  EXPECT_EQ(bits_from(bits, 2, -32), 0u);
  EXPECT_EQ(bits_from(bits, 2, -64), 0u);
  EXPECT_EQ(bits_from(bits, 2, 33), 1u);
  EXPECT_EQ(bits_from(bits, 2, 64), 0u);
}

}  // namespace
}  // namespace tokensieve::cuda
