// The instruction sets that tests of kernels run under.
#pragma once

#include <vector>

#include "tokensieve/backend.h"

namespace tokensieve::test {

// All that this CPU has; under AddressSanitizer, where vectors are slow, the best and the plainest.
inline std::vector<Isa> tested_isas() {
  std::vector<Isa> isas = supported_isas();
#ifdef __SANITIZE_ADDRESS__
  if (isas.size() > 2) isas = {isas.front(), isas.back()};
#endif
  return isas;
}

}  // namespace tokensieve::test
