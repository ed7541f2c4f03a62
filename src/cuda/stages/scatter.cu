// The public compact and scatter: rows of any [batch, seq, head, dim] tensor by a set's indices.
//
// Both need indices and counts only and leave dense sequences alone.
// Rows are multiples of 16 bytes; strides count elements of 2 bytes.
#include "cuda/common/launch.h"
#include "cuda/common/sequence.h"
#include "cuda/common/sorted.h"
#include "cuda/ptx/barrier.h"
#include "cuda/stages/stages.h"

namespace tokensieve::cuda {
namespace {

constexpr int kRowThreads = 256;
constexpr int kRowTokens = 64;  // rows of a CTA

struct RowsParams {
  Sequences sequences;
  Selection selection;
  const int64_t* count;  // [batch]
  Tensor full;     // [batch, seqlen_kv, full_heads, dim]
  Tensor compact;  // [batch, capacity, compact_heads, dim]
  int32_t full_heads;
  int32_t compact_heads;
  int32_t row_chunks;  // of 16 bytes
};

__device__ __forceinline__ char* head_rows(const Tensor& x, int64_t batch, int64_t row,
                                           int64_t head) {
  return static_cast<char*>(x.data) +
         2 * (batch * x.batch_stride + row * x.seq_stride + head * x.head_stride);
}

__device__ __forceinline__ const int32_t* set_indices(const RowsParams& params, int batch,
                                                      int head) {
  const int set = head * params.selection.num_sets / params.compact_heads;
  return params.selection.indices +
         (static_cast<int64_t>(batch) * params.selection.num_sets + set) *
             params.selection.capacity;
}

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
    *reinterpret_cast<uint4*>(to + 2 * row * params.compact.seq_stride + chunk * 16) =
        *reinterpret_cast<const uint4*>(from + 2 * indices[row] * params.full.seq_stride +
                                        chunk * 16);
  }
}

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
          from + 2 * source[row] * params.compact.seq_stride + chunk * 16);
    }
    *reinterpret_cast<uint4*>(to + 2 * row * params.full.seq_stride + chunk * 16) = value;
  }
}

LaunchShape rows_shape(const RowsParams& params) {
  LaunchShape shape;
  shape.grid = dim3((params.sequences.seqlen_kv + kRowTokens - 1) / kRowTokens,
                    params.compact_heads, params.sequences.batch);
  shape.threads = kRowThreads;
  return shape;
}

}  // namespace

cudaError_t gather_rows(const Sequences& sequences, const Selection& selection,
                        const int64_t* count, const Tensor& x, int heads, const Tensor& compacted,
                        int heads_out, int row_bytes, cudaStream_t stream) {
  const RowsParams params = {sequences, selection, count,     x,
                             compacted, heads,     heads_out, row_bytes / 16};
  return launch(gather_kernel, rows_shape(params), stream, params);
}

cudaError_t scatter_rows(const Sequences& sequences, const Selection& selection,
                         const int64_t* count, const Tensor& compacted, const Tensor& out,
                         int heads, int row_bytes, cudaStream_t stream) {
  const RowsParams params = {sequences, selection, count, out,
                             compacted, heads,     heads, row_bytes / 16};
  return launch(scatter_kernel, rows_shape(params), stream, params);
}

}  // namespace tokensieve::cuda
