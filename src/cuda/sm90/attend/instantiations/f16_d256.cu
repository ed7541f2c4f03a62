#include "cuda/sm90/attend/instances.h"

namespace tokensieve::cuda::sm90 {
template cudaError_t attend_instance<__half, 256>(const AttendArguments&, Keys,
                                                        cudaStream_t);
}
