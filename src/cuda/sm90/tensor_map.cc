#include "cuda/sm90/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

namespace tokensieve::cuda::sm90 {
namespace {

// The one driver call that the runtime has no counterpart of; found at run time, so that the
// library loads where there is no driver.
PFN_cuTensorMapEncodeTiled_v12000 encode_tiled() {
  static const PFN_cuTensorMapEncodeTiled_v12000 function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error = cudaGetDriverEntryPointByVersion(
        "cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    const bool ok = error == cudaSuccess && found == cudaDriverEntryPointSuccess;
    return ok ? reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry) : nullptr;
  }();
  return function;
}

CUtensorMapDataType data_type(Element element) {
  switch (element) {
    case Element::kF16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case Element::kBF16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  }
  return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}

}  // namespace

MapShape whole_shape(const Sequences& sequences, const Heads& heads, int head_dim, int box_rows) {
  const bool packed = sequences.cu_seqlens_kv != nullptr;
  return {.batch = packed ? 1 : sequences.batch,
          .seq = sequences.kv_rows,
          .heads = heads.num_kv_heads,
          .dim = head_dim,
          .box_rows = box_rows};
}

Status encode_map(const Tensor& tensor, Element element, const MapShape& shape, CUtensorMap& map) {
  const PFN_cuTensorMapEncodeTiled_v12000 encode = encode_tiled();
  if (encode == nullptr) {
    return Status::error(StatusCode::kUnsupported,
                         "the CUDA driver has no cuTensorMapEncodeTiled; it must be of CUDA 12 or "
                         "newer");
  }
  const cuuint64_t extents[4] = {
      static_cast<cuuint64_t>(shape.dim), static_cast<cuuint64_t>(shape.seq),
      static_cast<cuuint64_t>(shape.heads), static_cast<cuuint64_t>(shape.batch)};
  // The stride of an axis with one entry means nothing, but must be valid.
  const auto bytes = [&](int64_t extent, int64_t stride) {
    return static_cast<cuuint64_t>(extent > 1 ? stride : shape.dim) * element_bytes(element);
  };
  const cuuint64_t strides[3] = {bytes(shape.seq, tensor.seq_stride),
                                 bytes(shape.heads, tensor.head_stride),
                                 bytes(shape.batch, tensor.batch_stride)};
  const cuuint32_t box[4] = {64, static_cast<cuuint32_t>(shape.box_rows), 1, 1};
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  const CUresult result =
      encode(&map, data_type(element), 4,
             tensor.data, extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return {};
  return Status::error(StatusCode::kUnsupported,
                       "cuTensorMapEncodeTiled refuses a tensor (error %d): k and v need 16-byte "
                       "aligned bases and strides below 2^40 bytes",
                       static_cast<int>(result));
}

}  // namespace tokensieve::cuda::sm90
