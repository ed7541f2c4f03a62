// From run-time values to an instance.
#include "cuda/sm90/score/score.h"

#include "cuda/checks.h"
#include "cuda/device/dispatch.h"
#include "cuda/sm90/score/kernel.h"
#include "cuda/sm90/tensor_map.h"

namespace tokensieve::cuda::sm90 {

Status score(const ScoreParams& params, Element element, int head_dim, cudaStream_t stream) {
  CUtensorMap k_map;
  TOKENSIEVE_RETURN_IF_ERROR(encode_map(
      params.k, element, whole_shape(params.sequences, params.heads, head_dim, kScoreBoxRows),
      k_map));
  const auto enqueue = [&]<typename T, int kHeadDim>(ElementTag<T>, Int<kHeadDim>) {
    return score_instance<T, kHeadDim>(params, k_map, stream);
  };
  return launched("score", dispatch(element, head_dim, enqueue));
}

}  // namespace tokensieve::cuda::sm90
