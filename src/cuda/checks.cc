#include "cuda/checks.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <limits>
#include <mutex>
#include <string>

#include "core/plan.h"
#include "cuda/blocks/plan.h"
#include "cuda/device/dispatch.h"
#include "cuda/params.h"

namespace tokensieve::cuda {
namespace {

constexpr int64_t kRowAlignment = 16;  // bytes

Status unsupported_device(const char* found) {
  return Status::error(StatusCode::kUnsupported,
                       "backend cuda needs an NVIDIA Hopper GPU (compute capability 9.0); found "
                       "%s; use backend cpu",
                       found);
}

struct Properties {
  int major, minor, num_multiprocessors;
  cudaError_t error;
};

Properties ask_device(int device) {
  Properties found = {};
  const auto read = [&](int& value, cudaDeviceAttr attribute) {
    if (found.error == cudaSuccess) found.error = cudaDeviceGetAttribute(&value, attribute, device);
  };
  read(found.major, cudaDevAttrComputeCapabilityMajor);
  read(found.minor, cudaDevAttrComputeCapabilityMinor);
  read(found.num_multiprocessors, cudaDevAttrMultiProcessorCount);
  return found;
}

// A device's properties are constants of the machine, so each is asked for once in the process: a
// call saves three queries of the driver. Nothing else is kept.
Properties properties_of(int device) {
  struct Entry {
    std::once_flag once;
    Properties properties;
  };
  constexpr int kEntries = 64;
  static Entry entries[kEntries];
  if (device >= kEntries) return ask_device(device);
  Entry& entry = entries[device];
  std::call_once(entry.once, [&] { entry.properties = ask_device(device); });
  return entry.properties;
}

// "64, 128, 256"
std::string head_dims() {
  std::string list;
  for (int dim : kHeadDims) list += (list.empty() ? "" : ", ") + std::to_string(dim);
  return list;
}

}  // namespace

Result<Device> current_device() {
  int device = 0;
  Properties found = {.error = cudaGetDevice(&device)};
  if (found.error == cudaSuccess) found = properties_of(device);
  if (found.error != cudaSuccess) {
    cudaGetLastError();  // not the caller's error to find later
    return unsupported_device(cudaGetErrorString(found.error));
  }
  const Arch* arch = arch_of(found.major, found.minor);
  if (arch != nullptr) return Device{arch, found.num_multiprocessors};
  char text[64];
  std::snprintf(text, sizeof(text), "device %d of capability %d.%d", device, found.major,
                found.minor);
  return unsupported_device(text);
}

Status launched(const char* stage, cudaError_t error) {
  if (error == cudaSuccess) return {};
  return Status::error(StatusCode::kInternal, "CUDA %s: %s (%s)", stage, cudaGetErrorName(error),
                       cudaGetErrorString(error));
}

Element element_of(DType dtype) {
  return dtype == DType::kBF16 ? Element::kBF16 : Element::kF16;
}

Status check_plan(const Plan& plan, const Arch& arch) {
  const AttentionShape& s = plan.shape;
  const bool half = s.dtype == DType::kF16 || s.dtype == DType::kBF16;
  if (!half || s.kv_dtype != s.dtype || s.out_dtype != s.dtype) {
    return Status::error(StatusCode::kUnsupported,
                         "backend cuda needs f16 or bf16, the same for q, k, v and out; the shape "
                         "has %s, %s, %s; convert, or use backend cpu",
                         dtype_name(s.dtype), dtype_name(s.kv_dtype), dtype_name(s.out_dtype));
  }
  if (!arch.supports(element_of(s.dtype), s.head_dim)) {
    return Status::error(StatusCode::kUnsupported,
                         "head_dim is %d; backend cuda allows %s (pad with zeros and set "
                         "sm_scale), backend cpu any multiple of 16",
                         s.head_dim, head_dims().c_str());
  }
  if (!s.causal) {
    return Status::error(StatusCode::kUnsupported,
                         "causal is false; backend cuda computes causal attention only; use "
                         "backend cpu");
  }
  if (s.batch > std::numeric_limits<uint16_t>::max()) {
    return Status::error(StatusCode::kUnsupported,
                         "batch is %lld; backend cuda allows 1 to 65535; split the batch",
                         (long long)s.batch);
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_estimate(plan));
  if (plan.path == Path::kSparse && layer_heads(plan) > kMaxLayerHeads) {
    return Status::error(StatusCode::kUnsupported,
                         "the layer has %lld query heads; backend cuda selects for at most %d; use "
                         "backend cpu",
                         (long long)layer_heads(plan), kMaxLayerHeads);
  }
  return {};
}

Status check_inputs(const AttentionInputs& in) {
  if (in.kv_indices != nullptr || in.bias != nullptr) {
    return Status::error(StatusCode::kUnsupported,
                         "%s is not supported by backend cuda; %s, or use backend cpu",
                         in.bias != nullptr ? "bias" : "kv_indices",
                         in.bias != nullptr ? "leave it null" : "gather k and v first");
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("q", in.q));
  return check_tensor("k", in.k);
}

Status check_tensor(const char* name, const TensorView& view) {
  if (view.dtype == DType::kF32) {
    return Status::error(StatusCode::kUnsupported, "%s is f32; backend cuda allows f16, bf16",
                         name);
  }
  if (reinterpret_cast<uintptr_t>(view.data) % kRowAlignment != 0) {
    return Status::error(StatusCode::kUnsupported,
                         "%s.data is %p; backend cuda needs 16-byte alignment; copy the tensor",
                         name, view.data);
  }
  for (int axis = 0; axis < 3; ++axis) {
    const bool used = view.shape[axis] > 1;
    if (used && view.strides[axis] * 2 % kRowAlignment != 0) {
      return Status::error(StatusCode::kUnsupported,
                           "%s.strides[%d] is %lld; backend cuda needs multiples of 8 elements (16 "
                           "bytes); copy the tensor",
                           name, axis, (long long)view.strides[axis]);
    }
  }
  return {};
}

Status check_keep(const KeepSet& keep) {
  if (keep.capacity <= std::numeric_limits<int32_t>::max()) return {};
  return Status::error(StatusCode::kInvalidArgument,
                       "keep.capacity is %lld; backend cuda allows up to 2^31-1",
                       (long long)keep.capacity);
}

}  // namespace tokensieve::cuda
