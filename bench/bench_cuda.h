// `tokensieve bench --backend cuda`: the same benches on a GPU.
#pragma once

#include <functional>

#include "bench.h"

namespace tokensieve::bench {

// Dense attention, whole layers and their stages, sustained: CUDA graphs replayed for kSustained
// seconds a measurement. Errors: as run(), and kUnsupported without a GPU.
Status run_cuda(const Settings& settings, const std::function<void(const Row&)>& emit);

}  // namespace tokensieve::bench
