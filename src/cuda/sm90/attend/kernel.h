// Stage attend on Hopper: gathers Q, runs FlashAttention-style tiles over K and V, scatters O.
//
// q, out [batch, seqlen_q, num_q_heads, head_dim]; K and V through tensor maps; see AttendParams.
// A persistent grid: one CTA per multiprocessor, one producer and two consumer warpgroups.
#pragma once

#include "cuda/device/launch.h"
#include "cuda/sm90/attend/attend.h"
#include "cuda/sm90/attend/epilogue.h"

namespace tokensieve::cuda::sm90 {

template <class Traits>
__device__ __forceinline__ void init_barriers(SharedMemory<Traits>& shared) {
  constexpr int kWarps = (Traits::kLoaderThreads + Traits::kConsumerThreads) / 32;
  for (int i = 0; i < Traits::kWorkStages; ++i) {
    ptx::mbarrier_init(&shared.work_full[i], 1);
    ptx::mbarrier_init(&shared.work_empty[i], kWarps);
  }
  for (int i = 0; i < Traits::kQStages; ++i) {
    ptx::mbarrier_init(&shared.q_full[i], Traits::kLoaderThreads);
    ptx::mbarrier_init(&shared.q_empty[i], Traits::kConsumerThreads);
  }
  for (int i = 0; i < Traits::kStages; ++i) {
    ptx::mbarrier_init(&shared.k_full[i], 1);
    ptx::mbarrier_init(&shared.k_empty[i], 2);
    ptx::mbarrier_init(&shared.v_full[i], 1);
    ptx::mbarrier_init(&shared.v_empty[i], 2);
  }
  ptx::fence_mbarrier_init();
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    attend_kernel(const __grid_constant__ AttendArguments arguments) {
  using Visible = typename Traits::Visible;
  const AttendParams& params = arguments.params;
  extern __shared__ uint8_t raw[];
  auto& shared = *reinterpret_cast<SharedMemory<Traits>*>(
      (reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t{1023});
  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&arguments.k_map);
    ptx::prefetch_tensor_map(&arguments.v_map);
    if (Visible::kCompact && params.selection.indices != nullptr) {
      ptx::prefetch_tensor_map(&arguments.compact_k_map);
      ptx::prefetch_tensor_map(&arguments.compact_v_map);
    }
    init_barriers<Traits>(shared);
  }
  __syncthreads();
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  if (threadIdx.x < 128) {
    ptx::register_dealloc<Traits::kProducerRegisters>();
    if (threadIdx.x == 0) {
      produce_kv<Traits>(arguments, shared);
    } else if (threadIdx.x >= 32) {
      produce_q<Traits>(params, shared, threadIdx.x / 32 - 1);
    }
  } else {
    ptx::register_alloc<Traits::kConsumerRegisters>();
    Consumer<Traits> consumer(params, shared);
    RingPosition<Traits::kWorkStages> work;
    RingPosition<Traits::kQStages> q;
    while (true) {
      ptx::mbarrier_wait(&shared.work_full[work.slot], work.phase);
      const Tile tile = read_tile<Traits>(shared, work.slot);
      if (tile.head < 0) break;
      if (tile.visits() > 0 || (Visible::kBlocks && stores_nothing<Visible>(tile))) {
        ptx::mbarrier_wait(&shared.q_full[q.slot], q.phase);
        consumer.attend(tile, q.slot);
        store_tile<Traits>(params, shared, work.slot, consumer, q.slot);
        q.advance();
      }
      release_tile<Traits>(shared, work.slot);
      work.advance();
    }
  }
}

template <class Traits>
cudaError_t launch_attend(const AttendArguments& arguments, cudaStream_t stream) {
  constexpr size_t kBytes = sizeof(SharedMemory<Traits>) + 1024;  // to align it
  static_assert(kBytes <= 227 * 1024);
  return launch(attend_kernel<Traits>,
                {.grid = dim3(arguments.params.num_ctas), .threads = Traits::kThreads,
                 .shared_bytes = kBytes},
                stream, arguments);
}

// All passes of one element type and head_dim; instantiations/ holds one each.
template <typename Element, int kHeadDim>
cudaError_t attend_instance(const AttendArguments& arguments, Keys keys, cudaStream_t stream);

}  // namespace tokensieve::cuda::sm90
