#include "core/backend_table.h"

namespace tokensieve {

#ifdef TOKENSIEVE_HAVE_REF
extern const BackendOps kRefOps;
#endif
#ifdef TOKENSIEVE_HAVE_CPU
extern const BackendOps kCpuOps;
#endif

const BackendOps* backend_ops(Backend backend) {
#ifdef TOKENSIEVE_HAVE_CPU
  if (backend == Backend::kCpu || backend == Backend::kAuto) return &kCpuOps;
#endif
#ifdef TOKENSIEVE_HAVE_REF
  if (backend == Backend::kRef) return &kRefOps;
#endif
  return nullptr;
}

bool backend_available(Backend backend) { return backend_ops(backend) != nullptr; }

}  // namespace tokensieve
