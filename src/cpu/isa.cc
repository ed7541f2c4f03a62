// Which instruction set runs: what is compiled in, what this CPU has, what is forced.
#include <cstdlib>

#include "cpu/kernels.h"
#include "tokensieve/names.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#endif

namespace tokensieve {
namespace cpu {

const Kernels* compiled_kernels(Isa isa);
const TileKernels* compiled_tile_kernels(Isa isa, Isa vectors);

namespace {

constexpr Isa kBestFirst[] = {Isa::kAvx512, Isa::kAvx2, Isa::kSse4, Isa::kNeon, Isa::kBaseline};

#if defined(__x86_64__)
bool has_f16c() {  // not a name that clang 14's __builtin_cpu_supports knows
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

// Tiles with bf16 products, kept by the system (XCR0), and AVX-512's conversions to bf16.
bool has_tiles() {
  constexpr unsigned kOsXsave = 1u << 27;               // leaf 1, ecx
  constexpr unsigned kTiles = 1u << 22 | 1u << 24;      // leaf 7.0, edx: bf16 and tile
  constexpr unsigned kConversions = 1u << 5;            // leaf 7.1, eax
  constexpr unsigned kTileState = 1u << 17 | 1u << 18;  // XCR0: configuration and data
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kOsXsave) == 0) return false;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kTiles) != kTiles ||
      eax < 1) {
    return false;
  }
  if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) == 0 || (eax & kConversions) == 0) {
    return false;
  }
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kTileState) == kTileState;
}

struct Features {
  bool sse4, avx2, avx512, amx;
};
Features find_features() {
  __builtin_cpu_init();
  Features has = {};
  has.sse4 = __builtin_cpu_supports("sse4.2");
  has.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi2") && has_f16c();
  has.avx512 = has.avx2 && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
  has.amx = has.avx512 && has_tiles();
  return has;
}
#endif

bool cpu_has(Isa isa) {
#if defined(__x86_64__)
  // Found once: every run asks, and virtual machines take tens of microseconds for a cpuid.
  static const Features has = find_features();
  switch (isa) {
    case Isa::kAmx: return has.amx;
    case Isa::kAvx512: return has.avx512;
    case Isa::kAvx2: return has.avx2;
    case Isa::kSse4: return has.sse4;
    default: return isa == Isa::kBaseline;
  }
#else
  return isa == Isa::kNeon || isa == Isa::kBaseline;
#endif
}

}  // namespace

const Kernels* kernels_for(Isa isa) {
  if (isa == Isa::kAmx) return tile_kernels_for(isa) ? kernels_for(Isa::kAvx512) : nullptr;
  if (isa == Isa::kAmxEmulated) return tile_kernels_for(isa) ? kernels_for(Isa::kAuto) : nullptr;
  if (isa != Isa::kAuto) return cpu_has(isa) ? compiled_kernels(isa) : nullptr;
  for (Isa candidate : kBestFirst) {
    if (const Kernels* kernels = kernels_for(candidate)) return kernels;
  }
  return nullptr;
}

const TileKernels* tile_kernels_for(Isa isa) {
  if (isa == Isa::kAmx && !cpu_has(isa)) return nullptr;
  return compiled_tile_kernels(isa, kernels_for(Isa::kAuto)->isa);
}

ProductsReason ask_for_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0) return ProductsReason::kNone;
  return errno == ENOSPC ? ProductsReason::kSignalStack : ProductsReason::kPermission;
#else
  return ProductsReason::kPermission;
#endif
}

}  // namespace cpu

const char* isa_name(Isa isa) { return name_of(isa); }

Result<Isa> isa_from_name(const char* name) {
  if (const std::optional<Isa> isa = parse<Isa>(name)) return *isa;
  return Status::error(StatusCode::kInvalidArgument,
                       "instruction set \"%.40s\" is unknown; allowed: %s", name,
                       allowed_words<Isa>());
}

bool isa_supported(Isa isa) { return cpu::kernels_for(isa) != nullptr; }

std::vector<Isa> compiled_isas() {
  std::vector<Isa> isas;
  for (Isa isa : cpu::kBestFirst) {
    if (cpu::compiled_kernels(isa) != nullptr) isas.push_back(isa);
  }
  return isas;
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  for (Isa isa : cpu::kBestFirst) {
    if (cpu::kernels_for(isa) != nullptr) isas.push_back(isa);
  }
  return isas;
}

}  // namespace tokensieve
