// The stage tests alone: nvcc ... stages_main.cu stages_test.cu (the GPU test binary has them too).
#include <cstdio>
#include <cstring>

#include "cuda/device.h"
#include "cuda/stages_test.h"

int main(int argc, char** argv) {
  cudaDeviceProp device;
  CUDA_CHECK(cudaGetDeviceProperties(&device, 0));
  std::printf("%s, %d multiprocessors\n", device.name, device.multiProcessorCount);
  std::fflush(stdout);
  tokensieve::cuda::test::TestCounts counts;
  if (argc < 2 || std::strcmp(argv[1], "--time") != 0) {
    counts = tokensieve::cuda::test::test_stages();
    std::printf("%d passed, %d failed\n", counts.passed, counts.failed);
  }
  tokensieve::cuda::test::time_stages();
  return counts.failed == 0 ? 0 : 1;
}
