// The backends of this build whose calls take host memory, for tests that hold for each of them.
#pragma once

#include <vector>

#include "core/backend_table.h"
#include "tokensieve/names.h"

namespace tokensieve::test {

inline std::vector<Backend> host_backends() {
  std::vector<Backend> found;
  for (size_t i = 1; i < kWords<Backend>.size(); ++i) {  // 0 is auto
    const BackendOps* ops = backend_ops(static_cast<Backend>(i));
    if (ops != nullptr && !ops->device_memory) found.push_back(ops->id);
  }
  return found;
}

}  // namespace tokensieve::test
