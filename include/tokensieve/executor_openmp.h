// OpenMP executor: reuses the thread team of a host that computes with the same OpenMP runtime
// (ggml on Linux does). Header-only; compile the including file with -fopenmp.
#pragma once

#ifndef _OPENMP
#error "executor_openmp.h needs OpenMP: compile with -fopenmp, or use make_thread_pool()"
#endif

#include <omp.h>

#include <algorithm>
#include <atomic>

#include "tokensieve/executor.h"

namespace tokensieve {

// One run at a time. Inside another parallel region it runs on the calling thread alone, unless
// nested parallelism is on.
class OpenMpExecutor final : public Executor {
 public:
  explicit OpenMpExecutor(int num_threads) : num_threads_(std::max(1, num_threads)) {}

  int num_threads() const override { return num_threads_; }

  void run(int64_t count, Task task, void* context) override {
    const int threads = static_cast<int>(std::min<int64_t>(count, num_threads_));
    if (threads <= 1) {
      for (int64_t i = 0; i < count; ++i) task(context, i, 0);
      return;
    }
    // A counter of our own, not `schedule(dynamic)`: it promises that indices start in order.
    std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(threads)
    {
      const int thread = omp_get_thread_num();
      for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
           i = next.fetch_add(1, std::memory_order_relaxed)) {
        task(context, i, thread);
      }
    }
  }

 private:
  int num_threads_;
};

}  // namespace tokensieve
