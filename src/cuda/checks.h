// What the CUDA backend cannot do, said clearly.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/arch.h"
#include "tokensieve/attention.h"

namespace tokensieve::cuda {

struct Device {
  const Arch* arch;
  int num_multiprocessors;
};

// The current device, if its kernels are in this build. May be called while a stream is captured.
Result<Device> current_device();

// kInternal, naming the stage, if a launch failed.
Status launched(const char* stage, cudaError_t error);

Element element_of(DType dtype);  // f16 or bf16

Status check_plan(const Plan& plan, const Arch& arch);
Status check_inputs(const AttentionInputs& inputs);  // q and k, and what is not supported
// Rows move in 16-byte pieces: base and strides must be multiples of 16 bytes.
Status check_tensor(const char* name, const TensorView& view);
Status check_keep(const KeepSet& keep);

}  // namespace tokensieve::cuda
