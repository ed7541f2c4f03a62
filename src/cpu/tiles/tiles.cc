// The tile kernels, once per instruction set, on emulated matrix tiles and on the hardware's.

// As in kernels.cc.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#if defined(__aarch64__)
#define HWY_COMPILE_ONLY_STATIC
#endif

// Compilers that know the instructions. Without them the emulation is left.
#if defined(__x86_64__) && defined(__linux__) && \
    (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define TOKENSIEVE_CPU_AMX 1
#else
#define TOKENSIEVE_CPU_AMX 0
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/tiles/tiles.cc"
#include "hwy/foreach_target.h"

#include "cpu/tiles/tiles.h"
#include "hwy/highway.h"

#if HWY_TARGET != HWY_SCALAR  // whose vectors hold no pair

#include "cpu/tiles/attend_tiles-inl.h"

TOKENSIEVE_BEFORE_TILES();
namespace tokensieve::cpu {
namespace HWY_NAMESPACE {

template <bool kSplit, typename Matrix>
void attend_tiles(const TileCall& call) {
  TileAttend<kSplit, Matrix>(call).run();
}

template <typename Matrix>
constexpr TileKernels kernels_on(Isa isa) {
  return {.isa = isa,
          .pack = pack_tiles,
          .attend_split = attend_tiles<true, Matrix>,
          .attend_bf16 = attend_tiles<false, Matrix>};
}

extern const TileKernels kEmulated;
const TileKernels kEmulated = kernels_on<ScalarTiles>(Isa::kAmxEmulated);
#if TOKENSIEVE_CPU_AMX && HWY_TARGET <= HWY_AVX3
extern const TileKernels kAmx;
const TileKernels kAmx = kernels_on<AmxTiles>(Isa::kAmx);
#endif

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#endif  // HWY_TARGET != HWY_SCALAR

#if HWY_ONCE
namespace tokensieve::cpu {

TileScratch::TileScratch(Arena& arena, int head_dim) {
  const int64_t dims = tile_dims(head_dim);
  for (Part& part : parts) {
    part = {};
    part.qh = arena.take<uint16_t>(kPartRows * dims);
    part.ql = arena.take<uint16_t>(kPartRows * dims);
    part.o = arena.take<float>(kPartRows * dims);
  }
  for (float*& buffer : s) buffer = arena.take<float>(kPartRows * kTileStride);
  constexpr int64_t kRows = kPartRows + kRowPadding;
  exact = {.q = arena.take<float>(kRows * head_dim),
           .o = arena.take<float>(kRows * head_dim),
           .m = arena.take<float>(kRows),
           .l = arena.take<float>(kRows),
           .s = arena.take<float>(kRows * kBlockKeys),
           .rows = 0,
           .dim = head_dim};
  kt = arena.take<float>(int64_t{kPanelKeys} * head_dim);
  v = arena.take<float>(int64_t{kPanelKeys} * head_dim);
  row_end = arena.take<int32_t>(kPartRows);
}

size_t TileScratch::bytes(int head_dim) {
  Arena arena(nullptr);
  TileScratch(arena, head_dim);
  return arena.used();
}

const TileKernels* compiled_tile_kernels(Isa isa, Isa vectors) {
#if TOKENSIEVE_CPU_AMX && (HWY_TARGETS & HWY_AVX3)
  if (isa == Isa::kAmx) return &N_AVX3::kAmx;
#endif
  if (isa != Isa::kAmxEmulated) return nullptr;
  switch (vectors) {
#if HWY_TARGETS & HWY_AVX3
    case Isa::kAvx512: return &N_AVX3::kEmulated;
#endif
#if HWY_TARGETS & HWY_AVX2
    case Isa::kAvx2: return &N_AVX2::kEmulated;
#endif
#if HWY_TARGETS & HWY_SSE4
    case Isa::kSse4: return &N_SSE4::kEmulated;
#endif
#if HWY_ARCH_ARM_A64
    case Isa::kNeon: return &HWY_STATIC_DISPATCH(kEmulated);
#endif
#if HWY_TARGETS & HWY_EMU128
    case Isa::kBaseline: return &N_EMU128::kEmulated;
#endif
    default: return nullptr;
  }
}

}  // namespace tokensieve::cpu
#endif  // HWY_ONCE
