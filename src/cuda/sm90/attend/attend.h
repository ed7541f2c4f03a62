// Stage attend on Hopper, host side.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "cuda/device/element.h"
#include "cuda/params.h"
#include "tokensieve/status.h"

namespace tokensieve::cuda::sm90 {

// The kernel's argument: tensor maps {dim, seq, head, batch} of what `params` names.
struct AttendArguments {
  CUtensorMap k_map, v_map;
  CUtensorMap compact_k_map, compact_v_map;
  AttendParams params;
};

// Enqueues one pass.
Status attend(const AttendParams& params, Keys keys, Element element, int head_dim,
              cudaStream_t stream);

}  // namespace tokensieve::cuda::sm90
