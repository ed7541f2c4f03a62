#include "cuda/sm90/score/instances.h"

namespace tokensieve::cuda::sm90 {
template cudaError_t score_instance<__half, 64>(const ScoreParams&, const CUtensorMap&,
                                                       cudaStream_t);
}
