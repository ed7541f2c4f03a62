// The public scatter: compact rows back to their own places, zeros between them.
#include "cuda/device/sorted.h"
#include "cuda/rows/row_mover.h"
#include "cuda/rows/rows.h"

namespace tokensieve::cuda {

namespace {

__global__ void __launch_bounds__(kRowThreads)
    scatter_kernel(const __grid_constant__ RowsParams params) {
  __shared__ int source[kRowTokens];  // compact row of each of the CTA's tokens, -1: dropped
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const int batch = blockIdx.z;
  const int head = blockIdx.y;
  const Sequence where = sequence(params.sequences, batch);
  const int count = static_cast<int>(params.count[batch]);
  const int begin = blockIdx.x * kRowTokens;
  const int rows = min(kRowTokens, where.seqlen_kv - begin);
  if (count == where.seqlen_kv || rows <= 0) return;
  const int32_t* indices = set_indices(params, batch, head);
  if (threadIdx.x < kRowTokens) {
    const int token = begin + threadIdx.x;
    const int at = lower_bound(indices, count, token);
    source[threadIdx.x] = at < count && indices[at] == token ? at : -1;
  }
  __syncthreads();
  const char* from = head_rows(params.compact, batch, 0, head);
  char* to = head_rows(params.full, where.axis, where.kv_row + static_cast<int64_t>(begin), head);
  for (int i = threadIdx.x; i < rows * params.row_chunks; i += kRowThreads) {
    const int row = i / params.row_chunks;
    const int64_t chunk = i % params.row_chunks;
    uint4 value = make_uint4(0, 0, 0, 0);
    if (source[row] >= 0) {
      value = *reinterpret_cast<const uint4*>(
          from + kMovedBytes * source[row] * params.compact.seq_stride + chunk * kChunkBytes);
    }
    *reinterpret_cast<uint4*>(to + kMovedBytes * row * params.full.seq_stride +
                              chunk * kChunkBytes) = value;
  }
}

}  // namespace

cudaError_t scatter_rows(const Sequences& sequences, const Selection& selection,
                         const int64_t* count, const Tensor& compacted, const Tensor& out,
                         int heads, int row_bytes, cudaStream_t stream) {
  const RowsParams params = {sequences, selection, count, out,
                             compacted, heads,     heads, row_bytes / kChunkBytes};
  return launch(scatter_kernel, rows_shape(params), stream, params);
}

}  // namespace tokensieve::cuda
