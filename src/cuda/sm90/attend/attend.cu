// From run-time values to an instance.
#include "cuda/device/dispatch.h"
#include "cuda/sm90/attend/kernel.h"

namespace tokensieve::cuda::sm90 {

cudaError_t attend(const AttendParams& params, Keys keys, Element element, int head_dim,
                   cudaStream_t stream) {
  return dispatch(element, head_dim, [&]<typename T, int kHeadDim>(ElementTag<T>, Int<kHeadDim>) {
    return attend_instance<T, kHeadDim>(params, keys, stream);
  });
}

}  // namespace tokensieve::cuda::sm90
