// Stands in for cuda.cc in builds without CUDA, where no target names the backend.
#include "verify/blocks.h"
#include "verify/checks.h"

namespace tokensieve::verify {

namespace {

Status no_cuda() { return Status::error(StatusCode::kUnsupported, "cuda is not in this build"); }

}  // namespace

std::vector<Check> check_cuda(const GoldenCase&, const ref::OracleResult&, Executor&) {
  return {failed("plan", no_cuda())};
}

Status estimate_on_cuda(BlockCall&) { return no_cuda(); }

}  // namespace tokensieve::verify
