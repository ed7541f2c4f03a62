// How the host side reaches the kernels of a GPU generation: a table, as BackendOps is one of
// backends.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/blocks/params.h"
#include "cuda/device/element.h"
#include "cuda/params.h"
#include "tokensieve/status.h"

namespace tokensieve::cuda {

// Every function enqueues on the stream; none waits, allocates or keeps anything.
struct Arch {
  int major, minor;  // compute capability
  bool (*supports)(Element element, int head_dim);
  Status (*score)(const ScoreParams& params, Element element, int head_dim, cudaStream_t stream);
  cudaError_t (*select)(const SelectParams& params, cudaStream_t stream);
  Status (*estimate)(const EstimateParams& params, Element element, int head_dim,
                     cudaStream_t stream);
  Status (*attend)(const AttendParams& params, Keys keys, Element element, int head_dim,
                   cudaStream_t stream);
};

// Null: no kernels for this device are compiled in.
const Arch* arch_of(int major, int minor);

}  // namespace tokensieve::cuda
