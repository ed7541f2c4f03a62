// Which instruction set runs: what is compiled in, what this CPU has, what is forced.
#include <cstdlib>

#include "cpu/kernels.h"
#include "tokensieve/names.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace tokensieve {
namespace cpu {

const Kernels* compiled_kernels(Isa isa);

namespace {

constexpr Isa kBestFirst[] = {Isa::kAvx512, Isa::kAvx2, Isa::kSse4, Isa::kNeon, Isa::kBaseline};

#if defined(__x86_64__)
bool cpu_has_f16c() {  // not a name that clang 14's __builtin_cpu_supports knows
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

bool cpu_has(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (isa) {
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512cd") && cpu_has(Isa::kAvx2);
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi2") && cpu_has_f16c();
    case Isa::kSse4:
      return __builtin_cpu_supports("sse4.2");
    default:
      return isa == Isa::kBaseline;
  }
#else
  return isa == Isa::kNeon || isa == Isa::kBaseline;
#endif
}

}  // namespace

const Kernels* kernels_for(Isa isa) {
  if (isa != Isa::kAuto) return cpu_has(isa) ? compiled_kernels(isa) : nullptr;
  for (Isa candidate : kBestFirst) {
    if (const Kernels* kernels = kernels_for(candidate)) return kernels;
  }
  return nullptr;
}

}  // namespace cpu

const char* isa_name(Isa isa) { return name_of(isa); }

Result<Isa> isa_from_name(const char* name) {
  if (const std::optional<Isa> isa = parse<Isa>(name)) return *isa;
  return Status::error(StatusCode::kInvalidArgument,
                       "instruction set \"%.40s\" is unknown; allowed: %s", name,
                       allowed_words<Isa>());
}

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
