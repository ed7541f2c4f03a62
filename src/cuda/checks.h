// What the CUDA backend cannot do, said clearly.
#pragma once

#include "tokensieve/attention.h"

namespace tokensieve::cuda {

struct Device {
  int num_multiprocessors;
};

// The current device, if its kernels are in this build. Takes about a microsecond and may be called
// while a stream is captured.
Result<Device> current_device();

Status check_plan(const Plan& plan);
Status check_inputs(const AttentionInputs& inputs);  // q and k, and what is not supported
// Rows move in 16-byte pieces: base and strides must be multiples of 16 bytes.
Status check_tensor(const char* name, const TensorView& view);
Status check_keep(const KeepSet& keep);

}  // namespace tokensieve::cuda
