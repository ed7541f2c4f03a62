// Compiles the kernels once per instruction set; the only dispatch file of the backend.

// The ISAs that tokensieve names; the baseline of the build is always compiled.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#endif
#if defined(__aarch64__)
// Newer Highways know several NEONs (with and without AES, with BF16): the one that every CPU of
// the build has.
#define HWY_COMPILE_ONLY_STATIC
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/kernels.cc"
#include "hwy/foreach_target.h"

#include "cpu/kernels.h"
#include "hwy/highway.h"

#include "cpu/attend-inl.h"
#include "cpu/pack-inl.h"
#include "cpu/score-inl.h"
#include "cpu/store-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tokensieve::cpu {
namespace HWY_NAMESPACE {

// Which name this target has in the public list. Compiled for the target itself, so that a forced
// ISA can be seen to have run.
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
constexpr Isa kIsa = Isa::kAvx512;
#elif HWY_TARGET == HWY_AVX2
constexpr Isa kIsa = Isa::kAvx2;
#elif HWY_TARGET == HWY_SSE4
constexpr Isa kIsa = Isa::kSse4;
#elif HWY_ARCH_ARM_A64
constexpr Isa kIsa = Isa::kNeon;
#else
constexpr Isa kIsa = Isa::kBaseline;
#endif

extern const Kernels kKernels;
const Kernels kKernels = {
    .isa = kIsa,
    .panel_cols = kPanelCols,
    .load_rows = load_rows,
    .pack_panel = pack_panel,
    .attend = attend,
    .store_row = store_row,
    .pack_queries = pack_queries,
    .score_block = score_block,
    .score_sum = score_sum,
    .slash_sum = slash_sum,
};

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tokensieve::cpu {

const Kernels* compiled_kernels(Isa isa) {
  const Kernels* const all[] = {
#if HWY_TARGETS & HWY_AVX3
      &N_AVX3::kKernels,
#endif
#if HWY_TARGETS & HWY_AVX2
      &N_AVX2::kKernels,
#endif
#if HWY_TARGETS & HWY_SSE4
      &N_SSE4::kKernels,
#endif
#if HWY_ARCH_ARM_A64
      &HWY_STATIC_DISPATCH(kKernels),
#endif
#if HWY_TARGETS & HWY_EMU128
      &N_EMU128::kKernels,
#endif
#if HWY_TARGETS & HWY_SCALAR
      &N_SCALAR::kKernels,
#endif
  };
  for (const Kernels* kernels : all) {
    if (kernels->isa == isa) return kernels;
  }
  return nullptr;
}

}  // namespace tokensieve::cpu
#endif  // HWY_ONCE
