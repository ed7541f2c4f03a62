// How long something took: the median of its repeats.
#pragma once

#include <algorithm>
#include <vector>

namespace tokensieve::bench {

struct Timing {
  double ms = 0.0;
  double spread = 0.0;
};

inline Timing summarise(std::vector<double> ms) {
  std::sort(ms.begin(), ms.end());
  const double median = ms[ms.size() / 2];
  return {median, median > 0.0 ? (ms.back() - ms.front()) / median : 0.0};
}

}  // namespace tokensieve::bench
