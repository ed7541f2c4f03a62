// From run-time values to an instance.
#include "cuda/sm90/attend/kernel.h"

namespace tokensieve::cuda::sm90 {
namespace {

template <typename Element>
cudaError_t attend_element(const AttendParams& params, Keys keys, int head_dim,
                           cudaStream_t stream) {
  switch (head_dim) {
    case 64:
      return attend_instance<Element, 64>(params, keys, stream);
    case 128:
      return attend_instance<Element, 128>(params, keys, stream);
    case 256:
      return attend_instance<Element, 256>(params, keys, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t attend(const AttendParams& params, Keys keys, int head_dim, bool bf16,
                   cudaStream_t stream) {
  return bf16 ? attend_element<__nv_bfloat16>(params, keys, head_dim, stream)
              : attend_element<__half>(params, keys, head_dim, stream);
}

}  // namespace tokensieve::cuda::sm90
