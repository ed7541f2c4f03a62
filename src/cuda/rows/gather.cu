// The public compact: a set's rows, one behind the other.
#include "cuda/rows/row_mover.h"
#include "cuda/rows/rows.h"

namespace tokensieve::cuda {

namespace {

__global__ void __launch_bounds__(kRowThreads)
    gather_kernel(const __grid_constant__ RowsParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const int batch = blockIdx.z;
  const int head = blockIdx.y;
  const Sequence where = sequence(params.sequences, batch);
  const int count = static_cast<int>(params.count[batch]);
  const int begin = blockIdx.x * kRowTokens;
  const int rows = min(kRowTokens, count - begin);
  if (count == where.seqlen_kv || rows <= 0) return;
  const int32_t* indices = set_indices(params, batch, head) + begin;
  const char* from = head_rows(params.full, where.axis, where.kv_row,
                               static_cast<int64_t>(head) * params.full_heads /
                                   params.compact_heads);
  char* to = head_rows(params.compact, batch, begin, head);
  for (int i = threadIdx.x; i < rows * params.row_chunks; i += kRowThreads) {
    const int row = i / params.row_chunks;
    const int64_t chunk = i % params.row_chunks;
    *reinterpret_cast<uint4*>(to + kMovedBytes * row * params.compact.seq_stride +
                              chunk * kChunkBytes) =
        *reinterpret_cast<const uint4*>(from + kMovedBytes * indices[row] * params.full.seq_stride +
                                        chunk * kChunkBytes);
  }
}

}  // namespace

cudaError_t gather_rows(const Sequences& sequences, const Selection& selection,
                        const int64_t* count, const Tensor& x, int heads, const Tensor& compacted,
                        int heads_out, int row_bytes, cudaStream_t stream) {
  const RowsParams params = {sequences, selection, count,     x,
                             compacted, heads,     heads_out, row_bytes / kChunkBytes};
  return launch(gather_kernel, rows_shape(params), stream, params);
}

}  // namespace tokensieve::cuda
