// The kernels of a pattern, in their order.
#include "cuda/sm90/estimate/estimate.h"

#include "cuda/blocks/estimate.h"
#include "cuda/checks.h"

namespace tokensieve::cuda::sm90 {
namespace {

// Enqueues until one fails.
class Launches {
 public:
  template <typename F>
  void add(const char* name, F&& enqueue) {
    if (status_.ok()) status_ = launched(name, enqueue());
  }
  Status status() const { return status_; }

 private:
  Status status_;
};

void flex(const EstimateParams& params, Element element, int head_dim, cudaStream_t stream,
          Launches& launches) {
  launches.add("probe", [&] { return probe(params, element, head_dim, stream); });
  launches.add("cover counts", [&] { return count_lines(params, stream); });
  launches.add("lines", [&] { return choose_lines(params, element, head_dim, stream); });
  launches.add("line masks", [&] { return build_lines(params, stream); });
  launches.add("row means", [&] { return pool_rows(params, element, head_dim, stream); });
  for (int head = 0; head < params.heads.num_q_heads; head += params.map_heads) {
    launches.add("row map", [&] { return row_map(params, head, element, head_dim, stream); });
    launches.add("map tiles", [&] { return choose_tiles(params, head, stream); });
  }
}

}  // namespace

Status estimate(const EstimateParams& params, Element element, int head_dim, cudaStream_t stream) {
  const int64_t masks = static_cast<int64_t>(params.sequences.batch) * params.num_masks;
  Launches launches;
  launches.add("memset", [&] {
    return cudaMemsetAsync(params.scratch.every, 0, masks * sizeof(uint32_t), stream);
  });
  if (params.config.pattern != BlockPattern::kAntidiagonal) {
    launches.add("key means", [&] { return pool_keys(params, element, head_dim, stream); });
  }
  switch (params.config.pattern) {
    case BlockPattern::kFlex:
      flex(params, element, head_dim, stream, launches);
      break;
    case BlockPattern::kPooled:
      launches.add("pooled masks", [&] { return pooled(params, element, head_dim, stream); });
      break;
    default:
      launches.add("antidiagonal masks",
                   [&] { return antidiagonal(params, element, head_dim, stream); });
  }
  launches.add("masks", [&] { return visit_every(params, stream); });
  return launches.status();
}

}  // namespace tokensieve::cuda::sm90
