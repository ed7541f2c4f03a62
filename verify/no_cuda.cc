// Stands in for verify_cuda.cc in builds without CUDA, where no target names the backend.
#include "verify/checks.h"

namespace tokensieve::verify {

std::vector<Check> check_cuda(const GoldenCase&, const ref::OracleResult&, Executor&) {
  return {failed("plan", Status::error(StatusCode::kUnsupported, "cuda is not in this build"))};
}

}  // namespace tokensieve::verify
