// What read_report counts where local fill ran: one CTA a set.
#include "cuda/device/launch.h"
#include "cuda/device/sequence.h"
#include "cuda/keys/local_window.h"
#include "cuda/ptx/barrier.h"
#include "cuda/rows/far_pairs.h"
#include "cuda/rows/rows.h"

namespace tokensieve::cuda {
namespace {

constexpr int kFarPairsThreads = 256;

// Grid: sets, 1, batch. Whole numbers: their sum does not depend on the order of threads.
__global__ void __launch_bounds__(kFarPairsThreads)
    far_pairs_kernel(const __grid_constant__ FarPairsParams params) {
  __shared__ unsigned long long sum;
  if (threadIdx.x == 0) sum = 0;
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  __syncthreads();
  const int set = blockIdx.x;
  const int batch = blockIdx.z;
  const Selection& selection = params.selection;
  const Sequence where = sequence(params.sequences, batch);
  if (selection.count[batch] != where.seqlen_kv) {  // else it ran dense and has no mask
    const TokenSet kept = token_set(selection, batch, set, selection.num_sets);
    const int first_row = where.seqlen_kv - where.seqlen_q;
    int64_t own = 0;
    for (int word = threadIdx.x; word * 32 < where.seqlen_kv; word += kFarPairsThreads) {
      own += far_pairs_of_word(kept.mask, kept.rank, word, first_row,
                               window_begin(word * 32, params.local.window),
                               params.local.sink_tokens);
    }
    atomicAdd(&sum, static_cast<unsigned long long>(own));
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    params.far_pairs[static_cast<int64_t>(batch) * selection.num_sets + set] =
        static_cast<int64_t>(sum);
  }
}

}  // namespace

cudaError_t count_far_pairs(const FarPairsParams& params, cudaStream_t stream) {
  return launch(far_pairs_kernel,
                {.grid = dim3(params.selection.num_sets, 1, params.sequences.batch),
                 .threads = kFarPairsThreads},
                stream, params);
}

}  // namespace tokensieve::cuda
