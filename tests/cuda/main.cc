// All GPU tests in one self-contained program.
//
//   tokensieve_cuda_tests [--filter TEXT] [--threads N] [--no-stages] [--no-poison] [--no-timing]
//
// Ends with a timing table of layers and their stages, unless a check failed or a filter is given.
// Under compute-sanitizer: --no-stages --threads 1 --filter group4_d128, with initcheck also
// --no-poison. Skips (exit 77) where there is no GPU that the backend supports.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "bench_cuda.h"
#include "cuda/backend_test.h"
#include "cuda/device_case.h"
#include "tokensieve/attention.h"

namespace {

// Dense attention, the paper's layer and local fill, with their stages (bench/bench_cuda.cc).
bool time_layers() {
  using namespace tokensieve;
  const bench::Settings settings = {.lengths = {8192, 32768, 131072},
                                    .head_dims = {128},
                                    .keep_ratios = {0.2, 0.45},
                                    .num_q_heads = 32,
                                    .num_kv_heads = 8,
                                    .repeats = 1};
  std::printf("\n%-26s %8s %6s %10s %9s\n", "sustained, 32/8 heads, bf16", "tokens", "keep", "ms",
              "TFLOP/s");
  const Status status = bench::run_cuda(settings, [](const bench::Row& row) {
    std::printf("%-26s %8lld %6.2f %10.4f", row.bench.c_str(), static_cast<long long>(row.rows),
                row.keep_ratio, row.ms);
    if (row.gflops > 0) std::printf(" %9.1f", row.gflops / 1e3);
    if (!row.share && row.ratio > 0) std::printf("  x%.2f over own dense", row.ratio);
    std::printf("\n");
    std::fflush(stdout);
  });
  if (!status.ok()) std::printf("%s\n", status.message());
  return status.ok();
}

}  // namespace

int main(int argc, char** argv) {
  using namespace tokensieve;
  const char* filter = nullptr;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  bool stages = true, timing = true;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--filter") == 0 && i + 1 < argc) filter = argv[++i];
    if (std::strcmp(argv[i], "--threads") == 0 && i + 1 < argc) threads = std::atoi(argv[++i]);
    if (std::strcmp(argv[i], "--no-stages") == 0) stages = false;
    if (std::strcmp(argv[i], "--no-poison") == 0) cuda::test::poison_memory = false;
    if (std::strcmp(argv[i], "--no-timing") == 0) timing = false;
  }
  if (!backend_available(Backend::kCuda)) {
    const AttentionShape shape = {.seqlen_q = 1, .seqlen_kv = 1, .num_q_heads = 1,
                                  .num_kv_heads = 1, .head_dim = 64};
    std::printf("skipped: %s\n",
                make_plan(shape, {}, {.backend = Backend::kCuda}).status().message());
    return 77;
  }
  cuda::test::Runner runner;
  if (stages && filter == nullptr) {
    cuda::test::test_stages(runner);
    std::printf("stages: %d passed, %d failed\n", runner.passed(), runner.failed());
    std::fflush(stdout);
  }
  cuda::test::test_cases(runner, threads < 1 ? 1 : threads, filter);
  cuda::test::test_blocks(runner, threads < 1 ? 1 : threads, filter);
  cuda::test::test_estimates(runner, filter);
  if (filter == nullptr) {
    cuda::test::test_given_sets(runner);
    cuda::test::test_ranks(runner);
    cuda::test::test_behaviour(runner);
  }
  std::printf("%d passed, %d failed\n", runner.passed(), runner.failed());
  std::fflush(stdout);
  if (runner.failed() != 0) return 1;
  if (!timing || filter != nullptr) return 0;
  return time_layers() ? 0 : 1;
}
