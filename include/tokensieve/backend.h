// Backends: list, query and force.
#pragma once

#include <cstdint>
#include <vector>

#include "tokensieve/export.h"
#include "tokensieve/status.h"

namespace tokensieve {

enum class Backend : int32_t {
  kAuto = 0,  // cpu
  kRef = 1,   // the double-precision oracle: slow, for tests
  kCpu = 2,   // Highway SIMD with run-time dispatch
  kCuda = 3,  // NVIDIA Hopper (compute capability 9.0); only when asked for by name
};

TOKENSIEVE_API const char* backend_name(Backend backend);
// Whether plans for it can be made here: it is in this build and, for cuda, the current device is
// one that it supports. make_plan's error says what is missing.
TOKENSIEVE_API bool backend_available(Backend backend);
// Whether it is in this build.
TOKENSIEVE_API bool backend_compiled(Backend backend);

// Instruction sets of the CPU backend, best first. kAuto takes the best that this CPU has, unless
// the environment variable TOKENSIEVE_ISA (avx512, avx2, sse4, neon, baseline) forces one.
enum class Isa : int32_t { kAuto = 0, kAvx512, kAvx2, kSse4, kNeon, kBaseline };

TOKENSIEVE_API const char* isa_name(Isa isa);
TOKENSIEVE_API Result<Isa> isa_from_name(const char* name);
TOKENSIEVE_API std::vector<Isa> compiled_isas();   // in this build, best first
TOKENSIEVE_API std::vector<Isa> supported_isas();  // compiled and supported by this CPU, best first

}  // namespace tokensieve
