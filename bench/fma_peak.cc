// The ceiling of the attend kernel: fused multiply-adds from registers, nothing else.
#include "bench.h"

#include <chrono>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fma_peak.cc"
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS HWY_SSSE3
#endif
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tokensieve::bench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Returns flops done; `sink` keeps the compiler from dropping the work.
double multiply_add(int64_t iterations, float* sink) {
  const hn::CappedTag<float, 16> d;
  const auto x = hn::Set(d, 0.999f);
  // Different starts: equal chains would be merged into one.
  const auto start = [&](int n) { return hn::Set(d, *sink + static_cast<float>(n)); };
  auto a = start(0), b = start(1), c = start(2), e = start(3), f = start(4);
  auto g = start(5), h = start(6), i = start(7), j = start(8), k = start(9);
  for (int64_t n = 0; n < iterations; ++n) {
    a = hn::MulAdd(a, x, x);
    b = hn::MulAdd(b, x, x);
    c = hn::MulAdd(c, x, x);
    e = hn::MulAdd(e, x, x);
    f = hn::MulAdd(f, x, x);
    g = hn::MulAdd(g, x, x);
    h = hn::MulAdd(h, x, x);
    i = hn::MulAdd(i, x, x);
    j = hn::MulAdd(j, x, x);
    k = hn::MulAdd(k, x, x);
  }
  const auto sum = hn::Add(hn::Add(hn::Add(a, b), hn::Add(c, e)),
                           hn::Add(hn::Add(f, g), hn::Add(hn::Add(h, i), hn::Add(j, k))));
  *sink = hn::GetLane(hn::SumOfLanes(d, sum));
  return static_cast<double>(iterations) * 10 * 2 * static_cast<double>(hn::Lanes(d));
}

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tokensieve::bench {
namespace {

using MultiplyAdd = double (*)(int64_t, float*);

MultiplyAdd best_kernel() {
  const Isa isa = supported_isas().front();
#if HWY_TARGETS & HWY_AVX3
  if (isa == Isa::kAvx512) return N_AVX3::multiply_add;
#endif
#if HWY_TARGETS & HWY_AVX2
  if (isa == Isa::kAvx2) return N_AVX2::multiply_add;
#endif
#if HWY_TARGETS & HWY_SSE4
  if (isa == Isa::kSse4) return N_SSE4::multiply_add;
#endif
  (void)isa;
  return HWY_STATIC_DISPATCH(multiply_add);
}

}  // namespace

double fma_peak_gflops(int num_threads, Executor& executor) {
  constexpr int64_t kIterations = 20'000'000;
  const MultiplyAdd kernel = best_kernel();
  std::vector<float> sinks(static_cast<size_t>(num_threads) * 16);
  std::vector<double> flops(static_cast<size_t>(num_threads));
  const auto start = std::chrono::steady_clock::now();
  executor.parallel_for(num_threads, [&](int64_t i, int) {
    flops[static_cast<size_t>(i)] = kernel(kIterations, &sinks[static_cast<size_t>(i) * 16]);
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  double total = 0.0;
  for (double f : flops) total += f;
  return total / seconds.count() / 1e9;
}

}  // namespace tokensieve::bench
#endif
