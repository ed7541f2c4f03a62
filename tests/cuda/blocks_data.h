// Sets, masks and tensors of a block case, on the host and on the device.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "cuda/blocks_cases.h"
#include "cuda/device_case.h"

namespace tokensieve::cuda::test {

inline std::vector<int32_t> begins_of(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> begins = {0};
  for (int32_t length : lengths) begins.push_back(begins.back() + length);
  return begins;
}

// The tensors' shape; a packed plan's has the longest sequence and a batch.
inline AttentionCase tensors_of(const BlockCase& c) {
  AttentionCase all = {.name = c.name, .shape = c.shape, .select = c.select};
  all.sinks = c.sinks;
  if (!c.tokens.empty()) {
    all.shape.seqlen_q = begins_of(c.queries).back();
    all.shape.seqlen_kv = begins_of(c.tokens).back();
  }
  return all;
}

inline AttentionShape plan_shape(const BlockCase& c) {
  AttentionShape shape = c.shape;
  if (c.tokens.empty()) return shape;
  shape.packed = true;
  shape.batch = static_cast<int64_t>(c.tokens.size());
  shape.seqlen_q = *std::max_element(c.queries.begin(), c.queries.end());
  shape.seqlen_kv = *std::max_element(c.tokens.begin(), c.tokens.end());
  return shape;
}

inline Result<Plan> plan_of(const BlockCase& c, BlockPattern pattern,
                            Backend backend = Backend::kCuda) {
  AttentionShape shape = plan_shape(c);
  if (backend == Backend::kRef) shape.out_dtype = DType::kF32;
  const BlockConfig blocks = {.pattern = pattern, .share = c.share, .dense_rows = c.dense_rows};
  return make_plan(shape, c.select, blocks, {.backend = backend});
}

// Sets and masks of a case, on the host.
class Masked {
 public:
  Masked(const BlockCase& c, const Plan& plan) : c_(c), plan_(plan) {
    if (plan.path == Path::kSparse) draw_sets();
  }

  int64_t sequences() const { return plan_.shape.batch; }
  int64_t tokens(int64_t b) const {
    return c_.tokens.empty() ? plan_.shape.seqlen_kv : c_.tokens[b];
  }
  int64_t queries(int64_t b) const {
    return c_.tokens.empty() ? plan_.shape.seqlen_q : c_.queries[b];
  }
  const DeviceSets& sets() const { return sets_; }
  std::span<const int32_t> kept(int64_t b, int64_t head) const {
    if (plan_.path == Path::kDense || sets_.kept[b].empty()) return {};
    return sets_.kept[b][head * plan_.num_sets / plan_.shape.num_q_heads];
  }
  TileGrid grid(int64_t b, int64_t mask) const {
    Plan one = plan_;
    one.shape.seqlen_q = queries(b);
    one.shape.seqlen_kv = tokens(b);
    return tile_grid(one, kept(b, mask * plan_.shape.num_q_heads / plan_.num_masks));
  }
  BlockMask mask(std::vector<uint32_t>& bits) const {
    return {bits.data(), plan_.row_tiles, plan_.mask_words, plan_.num_masks};
  }

  std::vector<uint32_t> draw_bits(Bits bits, uint64_t seed) const {
    tokensieve::test::Random random(seed);
    std::vector<uint32_t> words(sequences() * plan_.num_masks * plan_.row_tiles *
                                plan_.mask_words);
    for (int64_t b = 0; b < sequences(); ++b) {
      for (int64_t m = 0; m < plan_.num_masks; ++m) {
        fill_mask(bits, grid(b, m), c_.nan_tile, plan_.row_tiles, mask_rows(mask(words), b, m),
                  random);
      }
    }
    return words;
  }

  // NaN where nobody may look.
  void spoil(CaseData& data) const {
    std::vector<int32_t> spoilt;
    if (c_.nan_tile) {
      const std::span<const int32_t> own = kept(0, 0);
      for (int32_t r = kNanTile * kBlock; r < (kNanTile + 1) * kBlock; ++r) {
        spoilt.push_back(own.empty() ? r : own[r]);
      }
    }
    if (!c_.tokens.empty()) {
      for (int32_t r = 0; r < c_.tokens[1]; ++r) spoilt.push_back(c_.tokens[0] + r);
    }
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (const int32_t token : spoilt) {
      for (int64_t h = 0; h < plan_.shape.num_kv_heads; ++h) {
        for (int64_t d = 0; d < plan_.shape.head_dim; ++d) {
          data.k.set(0, token, h, d, nan);
          data.v.set(0, token, h, d, nan);
        }
      }
    }
  }

 private:
  // Of every sequence that is long enough; the last of several stays dense.
  void draw_sets() {
    tokensieve::test::Random random(5);
    for (int64_t b = 0; b < sequences(); ++b) {
      const int64_t before = tokens(b) - plan_.suffix_len();
      const bool dense = before <= c_.prefix || (b > 0 && b == sequences() - 1);
      sets_.count.push_back(dense ? tokens(b) : c_.prefix + plan_.suffix_len());
      sets_.kept.emplace_back();
      for (int64_t set = 0; set < (dense ? 0 : plan_.num_sets); ++set) {
        std::vector<int32_t> kept(tokens(b));
        std::iota(kept.begin(), kept.end(), 0);
        for (int64_t i = 0; i < c_.prefix; ++i) {
          std::swap(kept[i], kept[i + random.below(before - i)]);
        }
        kept.erase(kept.begin() + c_.prefix, kept.begin() + before);
        std::sort(kept.begin(), kept.end());
        sets_.kept.back().push_back(std::move(kept));
      }
    }
  }

  const BlockCase& c_;
  const Plan& plan_;
  DeviceSets sets_;
};

// What the device reads besides the tensors, in its memory.
class DeviceExtras {
 public:
  DeviceExtras(const BlockCase& c, const Plan& plan, const Masked& masked) : plan_(plan) {
    if (plan.path == Path::kSparse) sets_.emplace(plan, masked.sets());
    if (c.tokens.empty()) return;
    cu_q_ = DeviceBuffer(begins_of(c.queries));
    cu_kv_ = DeviceBuffer(begins_of(c.tokens));
  }
  void set_bits(const std::vector<uint32_t>& bits) {
    if (bits_.bytes() == 0) bits_ = DeviceBuffer(bits.size() * sizeof(uint32_t));
    bits_.upload(bits.data());
  }
  AttentionInputs added_to(AttentionInputs in) const {
    if (sets_) in.keep = sets_->view();
    in.cu_seqlens_q = cu_q_.as<int32_t>();
    in.cu_seqlens_kv = cu_kv_.as<int32_t>();
    if (plan_.blocks.pattern == BlockPattern::kGiven) {
      in.block_mask = {bits_.as<uint32_t>(), plan_.row_tiles, plan_.mask_words, plan_.num_masks};
    }
    return in;
  }

 private:
  const Plan& plan_;
  std::optional<GivenSets> sets_;
  DeviceBuffer cu_q_, cu_kv_, bits_;
};

// Sets in host memory.
class HostKeep {
 public:
  HostKeep(const Plan& plan, const DeviceSets& sets)
      : capacity_(plan.keep_capacity()),
        indices_(sets.kept.size() * plan.num_sets * capacity_, -1),
        count_(sets.count) {
    for (size_t b = 0; b < sets.kept.size(); ++b) {
      for (size_t set = 0; set < sets.kept[b].size(); ++set) {
        std::copy(sets.kept[b][set].begin(), sets.kept[b][set].end(),
                  indices_.begin() + (b * plan.num_sets + set) * capacity_);
      }
    }
  }
  KeepSet view() { return {indices_.data(), capacity_, count_.data()}; }

 private:
  int64_t capacity_;
  std::vector<int32_t> indices_;
  std::vector<int64_t> count_;
};

}  // namespace tokensieve::cuda::test
