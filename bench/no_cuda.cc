// Stands in for bench_cuda.cc in builds without CUDA.
#include "bench_cuda.h"

namespace tokensieve::bench {

Status run_cuda(const Settings&, const std::function<void(const Row&)>&) {
  return Status::error(StatusCode::kUnsupported,
                       "backend cuda is not in this build; rebuild where nvcc is found, or use "
                       "--backend cpu");
}

}  // namespace tokensieve::bench
