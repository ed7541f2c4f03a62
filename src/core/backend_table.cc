#include "core/backend_table.h"

namespace tokensieve {

#ifdef TOKENSIEVE_HAVE_REF
extern const BackendOps kRefOps;
#endif
#ifdef TOKENSIEVE_HAVE_CPU
extern const BackendOps kCpuOps;
#endif
#ifdef TOKENSIEVE_HAVE_CUDA
extern const BackendOps kCudaOps;
#endif

const BackendOps* backend_ops(Backend backend) {
#ifdef TOKENSIEVE_HAVE_CPU
  if (backend == Backend::kCpu || backend == Backend::kAuto) return &kCpuOps;
#endif
#ifdef TOKENSIEVE_HAVE_REF
  if (backend == Backend::kRef) return &kRefOps;
#endif
#ifdef TOKENSIEVE_HAVE_CUDA
  if (backend == Backend::kCuda) return &kCudaOps;
#endif
  return nullptr;
}

bool backend_compiled(Backend backend) { return backend_ops(backend) != nullptr; }

bool backend_available(Backend backend) {
  const BackendOps* ops = backend_ops(backend);
  return ops != nullptr && (ops->usable == nullptr || ops->usable());
}

}  // namespace tokensieve
