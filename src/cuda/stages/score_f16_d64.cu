#include "cuda/stages/score_instance.h"

template cudaError_t tokensieve::cuda::score_instance<__half, 64>(const ScoreParams&,
    const CUtensorMap&, cudaStream_t);
