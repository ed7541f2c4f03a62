// The window of local fill: row i sees the sinks and tokens window_begin(i)..i.
#pragma once

namespace tokensieve::cuda {

__host__ __device__ constexpr int window_begin(int token, int local_window) {
  const int begin = token / 64 * 64 - local_window;
  return begin > 0 ? begin : 0;
}

}  // namespace tokensieve::cuda
