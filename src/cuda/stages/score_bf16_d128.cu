#include "cuda/stages/score_instance.h"

template cudaError_t tokensieve::cuda::score_instance<__nv_bfloat16, 128>(const ScoreParams&,
    const CUtensorMap&, cudaStream_t);
