// Hopper's row of the table.
#include "cuda/arch.h"

#include "cuda/device/dispatch.h"
#include "cuda/select/select.h"
#include "cuda/sm90/attend/attend.h"
#include "cuda/sm90/estimate/estimate.h"
#include "cuda/sm90/score/score.h"

namespace tokensieve::cuda::sm90 {
namespace {

bool supports(Element element, int head_dim) {
  return dispatch(element, head_dim, [](auto, auto) { return cudaSuccess; }) == cudaSuccess;
}

}  // namespace

extern const Arch kArch;
const Arch kArch = {.major = 9,
                    .minor = 0,
                    .supports = supports,
                    .score = score,
                    .select = cuda::select,
                    .estimate = estimate,
                    .attend = attend};

}  // namespace tokensieve::cuda::sm90
