// Queries against keys as K Q^T, so that the queries lie in the lanes: no transposed K, no
// horizontal maximum. One product and one exponential per (query, key) pair. Stage score: the last
// obs_window queries against every key; estimators: also mean keys, and groups of tokens as one
// long row.
#if defined(TOKENSIEVE_CPU_SCORE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENSIEVE_CPU_SCORE_INL_H_
#undef TOKENSIEVE_CPU_SCORE_INL_H_
#else
#define TOKENSIEVE_CPU_SCORE_INL_H_
#endif

#include <algorithm>

#include "cpu/gemm-inl.h"
#include "cpu/pack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tokensieve::cpu {
namespace HWY_NAMESPACE {

void pack_queries(const Rows& q, int64_t first, int count, int dim, float scale, float* qt) {
  for_dtype(q.dtype, [&]<DType kDType>() {
    for (int done = 0; done < count; done += kPanelCols) {
      pack_transposed<kDType>(q, first + done, std::min(count - done, kPanelCols), kPanelCols, dim,
                              scale, qt + static_cast<int64_t>(done) * dim);
    }
  });
}

// e [keys][kPanelCols] (=, or += if kAccumulate) of key rows at a over columns [0, dim).
template <bool kAccumulate>
HWY_INLINE void score_rows(const float* a, int64_t a_stride, int keys, int dim, const float* qt,
                           float* e) {
  for (int r = 0; r < keys;) {
    const int rows = next_rows(keys - r);
    const float* at = a + r * a_stride;
    float* c = e + r * kPanelCols;
    if (rows == 6) gemm<6, kVectors, kAccumulate>(at, a_stride, qt, kPanelCols, c, kPanelCols, dim);
    if (rows == 4) gemm<4, kVectors, kAccumulate>(at, a_stride, qt, kPanelCols, c, kPanelCols, dim);
    r += rows;
  }
}

constexpr int kDepth = 128;

// Logits e [count][kPanelCols] of `count` keys.
HWY_INLINE void score_logits(const Rows& k, int64_t first, int count, int dim, const float* qt,
                             float* k_rows, float* e) {
  for (int done = 0; done < count; done += kPanelKeys) {
    const int keys = std::min(count - done, kPanelKeys);
    const float* a = k_rows;
    int64_t stride = dim;
    if (k_rows != nullptr) {
      load_rows(k, first + done, keys, dim, 1.0f, k_rows);
    } else {
      a = reinterpret_cast<const float*>(k.row(first + done));
      stride = k.stride_bytes / static_cast<int64_t>(sizeof(float));
    }
    // Rows longer than a head go in parts, so that those of the queries stay in L1.
    float* c = e + static_cast<int64_t>(done) * kPanelCols;
    score_rows<false>(a, stride, keys, std::min(dim, kDepth), qt, c);
    for (int at = kDepth; at < dim; at += kDepth) {
      score_rows<true>(a + at, stride, keys, std::min(dim - at, kDepth),
                       qt + static_cast<int64_t>(at) * kPanelCols, c);
    }
  }
}

void score_block(const Rows& k, int64_t first, int count, int dim, const float* qt,
                 const Positions& at, float softcap, float* k_rows, float* e, float* m,
                 float* l) {
  const F32 d;
  score_logits(k, first, count, dim, qt, k_rows, e);
  if (softcap != 0.0f) {
    const VF32 cap = hn::Set(d, softcap);
    for (int64_t i = 0; i < static_cast<int64_t>(count) * kPanelCols; i += kLanes) {
      hn::StoreU(cap_logit(hn::LoadU(d, e + i), cap), d, e + i);
    }
  }
  for (int j = 0; j < count; ++j) {
    const int64_t position = std::min(at.key + j * at.step, at.last);
    const int64_t unseen = std::clamp<int64_t>(position - at.query, 0, kPanelCols);
    std::fill_n(e + static_cast<int64_t>(j) * kPanelCols, unseen, kMasked);
  }
  VF32 max[kVectors];
  VF32 sum[kVectors];
  HWY_UNROLL(4)
  for (int v = 0; v < kVectors; ++v) max[v] = hn::Set(d, kMasked);
  for (int j = 0; j < count; ++j) {
    HWY_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      max[v] = hn::Max(max[v], hn::LoadU(d, e + j * kPanelCols + v * kLanes));
    }
  }
  HWY_UNROLL(4)
  for (int v = 0; v < kVectors; ++v) sum[v] = hn::Zero(d);
  for (int j = 0; j < count; ++j) {
    HWY_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      float* at = e + j * kPanelCols + v * kLanes;
      const VF32 p = exp2(hn::Sub(hn::LoadU(d, at), max[v]));
      sum[v] = hn::Add(sum[v], p);
      hn::StoreU(p, d, at);
    }
  }
  HWY_UNROLL(4)
  for (int v = 0; v < kVectors; ++v) {
    hn::StoreU(max[v], d, m + v * kLanes);
    hn::StoreU(sum[v], d, l + v * kLanes);
  }
}

void score_sum(const float* e, int count, const float* weight, float* score) {
  const F32 d;
  VF32 w[kVectors];
  HWY_UNROLL(4)
  for (int v = 0; v < kVectors; ++v) w[v] = hn::LoadU(d, weight + v * kLanes);
  for (int j = 0; j < count; ++j) {
    VF32 sum = hn::Mul(w[0], hn::LoadU(d, e + j * kPanelCols));
    HWY_UNROLL(4)
    for (int v = 1; v < kVectors; ++v) {
      sum = hn::MulAdd(w[v], hn::LoadU(d, e + j * kPanelCols + v * kLanes), sum);
    }
    score[j] += hn::GetLane(hn::SumOfLanes(d, sum));
  }
}

void slash_sum(const float* e, int count, const float* weight, float* slash) {
  const F32 d;
  VF32 w[kVectors];
  HWY_UNROLL(4)
  for (int v = 0; v < kVectors; ++v) w[v] = hn::LoadU(d, weight + v * kLanes);
  std::fill_n(slash, count + kPanelCols - 1, 0.0f);
  for (int j = 0; j < count; ++j) {
    float* to = slash + count - 1 - j;
    HWY_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      const VF32 sum = hn::MulAdd(w[v], hn::LoadU(d, e + j * kPanelCols + v * kLanes),
                                  hn::LoadU(d, to + v * kLanes));
      hn::StoreU(sum, d, to + v * kLanes);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#endif
