// From run-time values to an instance.
#include "cuda/checks.h"
#include "cuda/device/dispatch.h"
#include "cuda/keys/causal.h"
#include "cuda/sm90/attend/kernel.h"
#include "cuda/sm90/tensor_map.h"

namespace tokensieve::cuda::sm90 {
namespace {

// Only the maps that a pass reads.
Status encode_maps(Keys keys, Element element, int head_dim, int box_rows,
                   AttendArguments& arguments) {
  const AttendParams& params = arguments.params;
  const MapShape whole = whole_shape(params.sequences, params.heads, head_dim, box_rows);
  TOKENSIEVE_RETURN_IF_ERROR(encode_map(params.k, element, whole, arguments.k_map));
  TOKENSIEVE_RETURN_IF_ERROR(encode_map(params.v, element, whole, arguments.v_map));
  if (params.selection.indices == nullptr || keys == Keys::kWindow) return {};
  const MapShape compact = {.batch = params.sequences.batch,
                            .seq = params.selection.capacity,
                            .heads = params.compact_heads,
                            .dim = head_dim,
                            .box_rows = box_rows};
  TOKENSIEVE_RETURN_IF_ERROR(
      encode_map(params.compact_k, element, compact, arguments.compact_k_map));
  return encode_map(params.compact_v, element, compact, arguments.compact_v_map);
}

}  // namespace

Status attend(const AttendParams& params, Keys keys, Element element, int head_dim,
              cudaStream_t stream) {
  AttendArguments arguments = {.params = params};
  Status encoded;
  const auto enqueue = [&]<typename T, int kHeadDim>(ElementTag<T>, Int<kHeadDim>) {
    constexpr int kBoxRows = Traits<T, kHeadDim, CausalKeys, false>::kBoxRows;
    encoded = encode_maps(keys, element, head_dim, kBoxRows, arguments);
    return encoded.ok() ? attend_instance<T, kHeadDim>(arguments, keys, stream) : cudaSuccess;
  };
  const cudaError_t error = dispatch(element, head_dim, enqueue);
  TOKENSIEVE_RETURN_IF_ERROR(encoded);
  return launched("attend", error);
}

}  // namespace tokensieve::cuda::sm90
