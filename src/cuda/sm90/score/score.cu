// From run-time values to an instance.
#include "cuda/device/dispatch.h"
#include "cuda/sm90/score/kernel.h"
#include "cuda/sm90/score/score.h"

namespace tokensieve::cuda::sm90 {

cudaError_t score(const ScoreParams& params, const CUtensorMap& k_map, Element element,
                  int head_dim, cudaStream_t stream) {
  return dispatch(element, head_dim, [&]<typename T, int kHeadDim>(ElementTag<T>, Int<kHeadDim>) {
    return score_instance<T, kHeadDim>(params, k_map, stream);
  });
}

}  // namespace tokensieve::cuda::sm90
