// From run-time values to an instance.
#include "cuda/stages/score_kernel.h"
#include "cuda/stages/stages.h"

namespace tokensieve::cuda {
namespace {

template <typename Element>
cudaError_t score_element(const ScoreParams& params, const CUtensorMap& k_map, int head_dim,
                          cudaStream_t stream) {
  switch (head_dim) {
    case 64:
      return score_instance<Element, 64>(params, k_map, stream);
    case 128:
      return score_instance<Element, 128>(params, k_map, stream);
    case 256:
      return score_instance<Element, 256>(params, k_map, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

int score_splits(const Sequences& sequences, const Heads& heads, int num_multiprocessors) {
  const int64_t rows = static_cast<int64_t>(sequences.batch) * heads.num_kv_heads;
  const int64_t tiles = (static_cast<int64_t>(sequences.seqlen_kv) + kTileKv - 1) / kTileKv;
  const int64_t splits = rows < num_multiprocessors ? num_multiprocessors / rows : 1;
  return static_cast<int>(splits < tiles ? splits : tiles);
}

cudaError_t score(const ScoreParams& params, const CUtensorMap& k_map, int head_dim, bool bf16,
                  cudaStream_t stream) {
  return bf16 ? score_element<__nv_bfloat16>(params, k_map, head_dim, stream)
              : score_element<__half>(params, k_map, head_dim, stream);
}

}  // namespace tokensieve::cuda
