#include "cuda/sm90/attend/instances.h"

namespace tokensieve::cuda::sm90 {
template cudaError_t attend_instance<__nv_bfloat16, 64>(const AttendArguments&, Keys,
                                                        cudaStream_t);
}
