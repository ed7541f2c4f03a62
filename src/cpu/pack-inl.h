// Packs rows of any dtype for the kernels. Kept rows are gathered through an index list while they
// are packed: this is stage compact of a whole run, and it costs the same as packing all of them,
// 0.5-0.6 ns per element at every keep ratio.
#if defined(TOKENSIEVE_CPU_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENSIEVE_CPU_PACK_INL_H_
#undef TOKENSIEVE_CPU_PACK_INL_H_
#else
#define TOKENSIEVE_CPU_PACK_INL_H_
#endif

#include "cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tokensieve::cpu {
namespace HWY_NAMESPACE {

constexpr int kBlock = 16;  // head_dim is a multiple of it

template <DType kDType>
void load_rows_as(const Rows& rows, int64_t first, int count, int dim, float scale, float* dst) {
  const F32 d;
  const VF32 factor = hn::Set(d, scale);
  for (int r = 0; r < count; ++r) {
    const char* row = rows.row(first + r);
    for (int c = 0; c < dim; c += kLanes) {
      hn::Store(hn::Mul(factor, load<kDType>(row, c)), d, dst + r * dim + c);
    }
  }
}

void load_rows(const Rows& rows, int64_t first, int count, int dim, float scale, float* dst) {
  for_dtype(rows.dtype, [&]<DType kDType>() {
    load_rows_as<kDType>(rows, first, count, dim, scale, dst);
  });
}

// Columns [c, c + 16) of `count` <= 16 rows, transposed to dst[i * dst_stride + row]; missing rows
// are zero.
template <DType kDType>
HWY_INLINE void transpose_block(const char* const* rows, int count, int c, float scale, float* dst,
                                int64_t dst_stride) {
  const F32 d;
#if HWY_TARGET <= HWY_AVX3
  __m512 r[kBlock];
  const VF32 factor = hn::Set(d, scale);
  HWY_UNROLL(16)
  for (int i = 0; i < kBlock; ++i) {
    r[i] = i < count ? hn::Mul(factor, load<kDType>(rows[i], c)).raw : _mm512_setzero_ps();
  }
  transpose(r);
  HWY_UNROLL(16)
  for (int i = 0; i < kBlock; ++i) _mm512_storeu_ps(dst + i * dst_stride, r[i]);
#else
  HWY_ALIGN float block[kBlock][kBlock];
  for (int i = 0; i < kBlock; ++i) {
    for (int j = 0; j < kBlock; j += kLanes) {
      const VF32 x = i < count ? hn::Mul(hn::Set(d, scale), load<kDType>(rows[i], c + j))
                               : hn::Zero(d);
      hn::Store(x, d, &block[i][j]);
    }
  }
  for (int i = 0; i < kBlock; ++i) {
    for (int j = 0; j < kBlock; ++j) dst[i * dst_stride + j] = block[j][i];
  }
#endif
}

// count <= 64 rows as [64 / kPanelCols][dim][kPanelCols], times scale.
template <DType kDType>
void pack_transposed(const Rows& source, int64_t first, int count, int columns, int dim,
                     float scale, float* dst) {
  const char* rows[kPanelKeys];
  for (int r = 0; r < count; ++r) rows[r] = source.row(first + r);
  for (int p = 0; p < columns; p += kPanelCols) {
    float* panel = dst + static_cast<int64_t>(p) * dim;
    if constexpr (kPanelCols >= kBlock) {
      for (int g = 0; g < kPanelCols; g += kBlock) {
        const int left = count - (p + g);
        for (int c = 0; c < dim; c += kBlock) {
          transpose_block<kDType>(rows + p + g, left < 0 ? 0 : left > kBlock ? kBlock : left, c,
                                  scale, panel + c * kPanelCols + g, kPanelCols);
        }
      }
    } else {
      HWY_ALIGN float block[kBlock * kBlock];
      const int left = count - p;
      for (int c = 0; c < dim; c += kBlock) {
        transpose_block<kDType>(rows + p, left < 0 ? 0 : left > kPanelCols ? kPanelCols : left, c,
                                scale, block, kBlock);
        for (int i = 0; i < kBlock; ++i) {
          for (int j = 0; j < kPanelCols; ++j) {
            panel[(c + i) * kPanelCols + j] = block[i * kBlock + j];
          }
        }
      }
    }
  }
}

void pack_panel(const Rows& k, const Rows& v, int64_t first, int count, int dim, float* kt,
                float* v_out) {
  if (kt != nullptr) {
    for_dtype(k.dtype, [&]<DType kDType>() {
      pack_transposed<kDType>(k, first, count, kPanelKeys, dim, 1.0f, kt);
    });
  }
  if (v_out != nullptr) {
    load_rows(v, first, count, dim, 1.0f, v_out);
    for (int64_t i = static_cast<int64_t>(count) * dim; i < kPanelKeys * dim; ++i) v_out[i] = 0.0f;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#endif
