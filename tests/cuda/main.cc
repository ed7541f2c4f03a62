// All GPU tests in one self-contained program.
//
//   tokensieve_cuda_tests [--filter TEXT] [--threads N] [--no-stages] [--timing]
//
// Skips (exit 77) where there is no GPU that the backend supports.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "cuda/backend_test.h"
#include "cuda/stages_test.h"
#include "tokensieve/attention.h"

int main(int argc, char** argv) {
  using namespace tokensieve;
  const char* filter = nullptr;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  bool stages = true, timing = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--filter") == 0 && i + 1 < argc) filter = argv[++i];
    if (std::strcmp(argv[i], "--threads") == 0 && i + 1 < argc) threads = std::atoi(argv[++i]);
    if (std::strcmp(argv[i], "--no-stages") == 0) stages = false;
    if (std::strcmp(argv[i], "--timing") == 0) timing = true;
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
    const cuda::test::TestCounts counts = cuda::test::test_stages();
    runner.add(counts.passed, counts.failed);
    std::printf("stages: %d passed, %d failed\n", counts.passed, counts.failed);
    std::fflush(stdout);
  }
  cuda::test::test_cases(runner, threads < 1 ? 1 : threads, filter);
  if (filter == nullptr) cuda::test::test_behaviour(runner);
  if (timing && runner.failed() == 0) cuda::test::time_stages();
  std::printf("%d passed, %d failed\n", runner.passed(), runner.failed());
  return runner.failed() == 0 ? 0 : 1;
}
