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

// Instruction sets of the CPU backend. kAuto takes the best that this CPU has, unless the
// environment variable TOKENSIEVE_ISA (one of the words: avx512, avx2, ...) forces one. Plans have
// kAmx and kAmxEmulated only where products are other than exact; what runs in f32 beside them, and
// where products are exact, takes avx512 and the best that there is.
enum class Isa : int32_t {
  kAuto = 0, kAvx512, kAvx2, kSse4, kNeon, kBaseline,
  kAmx,          // AVX-512 and the matrix tiles of Xeons
  kAmxEmulated,  // the same kernels on tiles in plain C++, on every machine: slow, for tests
};

TOKENSIEVE_API const char* isa_name(Isa isa);
TOKENSIEVE_API Result<Isa> isa_from_name(const char* name);
// Those of f32, best first: in this build; and supported by this CPU.
TOKENSIEVE_API std::vector<Isa> compiled_isas();
TOKENSIEVE_API std::vector<Isa> supported_isas();
// Whether it is in this build and this CPU has it. For kAmx the system must allow tiles, too: only
// a plan asks it.
TOKENSIEVE_API bool isa_supported(Isa isa);

// How attention's two products are computed; softmax and sums are f32 in any case. Figures: the
// relative L2 error of a head's output, of random inputs.
enum class Products : int32_t {
  kAuto = 0,  // exact
  kExact,     // in f32, 4e-7; backend cuda: in its 16 bits
  kSplit,     // tiles of 16 bits, operands in two pieces: 7e-6. k and v of f16 or bf16
  kBf16,      // tiles of 16 bits, operands rounded to bf16: 3e-3, about what GPUs give
};

// Why a plan's products are exact although others were wanted.
enum class ProductsReason : int32_t {
  kNone = 0,
  kNoTiles,      // the instruction set, of this CPU or forced, has no tiles
  kPermission,   // the system refuses tiles to this process
  kSignalStack,  // a thread's alternate signal stack has no room for tiles
  kF32Keys,      // split: k and v are f32, of which it would keep 16 bits
  kNotCausal,    // attention is not plainly causal
  kBackend,      // only backend cpu has others
  kColumns,      // block masks with single columns (kVerticalSlash) are in f32
};

TOKENSIEVE_API const char* products_reason_text(ProductsReason reason);

}  // namespace tokensieve
