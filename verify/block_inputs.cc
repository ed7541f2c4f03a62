#include "verify/block_inputs.h"

#include <algorithm>
#include <array>
#include <bit>
#include <initializer_list>
#include <set>
#include <span>

#include "ref/elements.h"
#include "verify/sha256.h"

namespace tokensieve::verify {
namespace {

constexpr int64_t kDim = kBlockInputsDim;

// splitmix64.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

uint64_t hash(uint64_t seed, std::initializer_list<int64_t> axes) {
  uint64_t x = mix(seed);
  for (int64_t axis : axes) x = mix(x ^ mix(static_cast<uint64_t>(axis)));
  return x;
}

// About normal: the sum of four 16-bit fields, a multiple of 3 / 2^17.
double noise(uint64_t seed, std::initializer_list<int64_t> axes) {
  const uint64_t x = hash(seed, axes);
  const uint64_t sum = (x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48);
  return (static_cast<double>(sum) - 131070.0) * (0.75 / 32768.0);
}

double sign(uint64_t seed, std::initializer_list<int64_t> axes) {
  return (hash(seed, axes) & 1) != 0 ? 1.0 : -1.0;
}

// Which structure a dimension carries: sinks, columns, slashes, runs of neighbours, topics.
enum Kind { kSink, kVertical, kSlash, kLocal, kTopic, kNoise };
constexpr std::array<int64_t, 6> kBegin = {0, 8, 24, 72, 104, 128};

// Weights of q by kind and head % 4: a-shape, columns, slashes, topic blocks.
constexpr double kWeight[6][4] = {{2.5, 1.5, 1.5, 0.5}, {0.5, 2.0, 0.5, 0.25},
                                  {0.25, 0.5, 2.25, 0.0}, {2.0, 1.0, 1.0, 0.5},
                                  {0.25, 0.25, 0.0, 2.5}, {1.0, 1.0, 0.75, 0.25}};

// The codes of a key at dimension i of their kind.
struct Codes {
  uint64_t seed;
  int64_t kv_head;

  double vertical(int64_t i) const { return sign(seed + 6, {kv_head, i}); }
  double slash(int64_t j, int64_t i) const { return sign(seed + 2, {kv_head, j, i}); }
  double local(int64_t j, int64_t i) const {
    return sign(seed + 3, {kv_head, (j + 5 * i) / (int64_t{8} << i % 4), i});
  }
  double topic(int64_t j, int64_t i) const {
    const uint64_t topic = hash(seed + 5, {kv_head, j / 256}) % 6;  // another every 256 tokens
    return sign(seed + 4, {kv_head, static_cast<int64_t>(topic), i});
  }
};

// A dozen columns, some neighbours.
std::set<int64_t> verticals_of(int64_t tokens, int64_t kv_head) {
  std::set<int64_t> columns;
  for (int64_t i = 0; i < 8; ++i) {
    const auto column =
        static_cast<int64_t>(hash(11, {i, kv_head}) % static_cast<uint64_t>(tokens - 512)) + 64;
    columns.insert(column);
    if (i < 4) columns.insert(column + 1);
  }
  return columns;
}

void fill_keys(int64_t tokens, const Codes& codes, double* x) {
  const std::set<int64_t> verticals = verticals_of(tokens, codes.kv_head);
  for (int64_t j = 0; j < tokens; ++j, x += kDim) {
    for (int64_t d = 0; d < kDim; ++d) x[d] = noise(codes.seed, {1, codes.kv_head, j, d});
    for (int64_t d = 0; j < 4 && d < kBegin[kVertical]; ++d) x[d] += 6.25;
    for (int64_t d = kBegin[kVertical]; d < kBegin[kSlash] && verticals.contains(j); ++d) {
      x[d] += 3.0 * codes.vertical(d - kBegin[kVertical]);
    }
    for (int64_t d = kBegin[kSlash]; d < kBegin[kLocal]; ++d) {
      x[d] += codes.slash(j, d - kBegin[kSlash]);
    }
    for (int64_t d = kBegin[kLocal]; d < kBegin[kTopic]; ++d) {
      x[d] += codes.local(j, d - kBegin[kLocal]);
    }
    for (int64_t d = kBegin[kTopic]; d < kDim; ++d) {
      x[d] += 1.5 * codes.topic(j, d - kBegin[kTopic]);
    }
  }
}

void fill_queries(int64_t tokens, int64_t head, const Codes& codes, double* x) {
  const auto weight = [head](Kind kind) { return kWeight[kind][head % 4]; };
  int64_t distances[2];
  for (int64_t i = 0; i < 2; ++i) {
    distances[i] =
        static_cast<int64_t>(hash(12, {i, head}) % static_cast<uint64_t>(tokens / 2)) + 300;
  }
  for (int64_t j = 0; j < tokens; ++j, x += kDim) {
    for (int64_t d = 0; d < kDim; ++d) {
      x[d] = weight(kNoise) * noise(codes.seed, {0, head, j, d});
    }
    for (int64_t d = 0; d < kBegin[kVertical]; ++d) x[d] += weight(kSink);
    for (int64_t d = kBegin[kVertical]; d < kBegin[kSlash]; ++d) {
      x[d] += weight(kVertical) * codes.vertical(d - kBegin[kVertical]);
    }
    for (int64_t distance : distances) {
      for (int64_t d = kBegin[kSlash]; d < kBegin[kLocal] && j >= distance; ++d) {
        x[d] += weight(kSlash) * codes.slash(j - distance, d - kBegin[kSlash]);
      }
    }
    for (int64_t d = kBegin[kLocal]; d < kBegin[kTopic]; ++d) {
      x[d] += weight(kLocal) * codes.local(j, d - kBegin[kLocal]);
    }
    for (int64_t d = kBegin[kTopic]; d < kDim; ++d) {
      x[d] += weight(kTopic) * codes.topic(j, d - kBegin[kTopic]);
    }
  }
}

void append_bf16(const std::vector<double>& x, std::vector<uint16_t>& out) {
  for (double value : x) out.push_back(ref::encode(value, ref::kBF16));
}

}  // namespace

AttentionInputs BlockInputs::view() const {
  const auto of = [this](const std::vector<uint16_t>& x, int64_t heads) {
    return bhsd(x.data(), DType::kBF16, 1, shape.seqlen_kv, heads, shape.head_dim);
  };
  return {.q = of(q, shape.num_q_heads),
          .k = of(k, shape.num_kv_heads),
          .v = of(v, shape.num_kv_heads)};
}

std::string BlockInputs::sha256() const {
  Sha256 sum;
  for (const std::vector<uint16_t>* x : {&q, &k, &v}) {
    std::vector<float> wide;
    for (uint16_t bits : *x) wide.push_back(std::bit_cast<float>(uint32_t{bits} << 16));
    sum.add(std::as_bytes(std::span(wide)));
  }
  return sum.hex();
}

BlockInputs make_block_inputs(int64_t tokens, int32_t q_heads, int32_t kv_heads, uint64_t seed) {
  BlockInputs inputs;
  inputs.shape = {.seqlen_q = tokens, .seqlen_kv = tokens, .num_q_heads = q_heads,
                  .num_kv_heads = kv_heads, .head_dim = kBlockInputsDim, .dtype = DType::kBF16,
                  .kv_dtype = DType::kBF16, .out_dtype = DType::kBF16};
  std::vector<double> x(static_cast<size_t>(tokens * kDim));
  for (int64_t h = 0; h < kv_heads; ++h) {
    fill_keys(tokens, {seed, h}, x.data());
    append_bf16(x, inputs.k);
    for (int64_t i = 0; i < tokens * kDim; ++i) x[i] = noise(seed, {2, h, i / kDim, i % kDim});
    append_bf16(x, inputs.v);
  }
  for (int64_t h = 0; h < q_heads; ++h) {
    fill_queries(tokens, h, {seed, h * kv_heads / q_heads}, x.data());
    append_bf16(x, inputs.q);
  }
  return inputs;
}

}  // namespace tokensieve::verify
