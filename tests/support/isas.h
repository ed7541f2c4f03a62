// The instruction sets and threads that tests of kernels run under.
#pragma once

#include <vector>

#include "tokensieve/backend.h"

namespace tokensieve::test {

// All that this CPU has; under AddressSanitizer, where every access costs, the widest and the
// narrowest vectors. The scalar baseline, ten times slower still, has the same source.
inline std::vector<Isa> tested_isas() {
  std::vector<Isa> isas = supported_isas();
#ifdef __SANITIZE_ADDRESS__
  if (isas.size() > 2) isas = {isas.front(), isas[isas.size() - 2]};
#endif
  return isas;
}

// For reruns beside a serial run; under a sanitizer one.
inline std::vector<int> tested_threads() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return {5};
#else
  return {1, 2, 5};
#endif
}

}  // namespace tokensieve::test
