// Executor: how a backend runs its tasks in parallel.
//
// The library starts no thread of its own accord: the caller brings an executor (its own thread
// pool, OpenMP) or uses one of these.
#pragma once

#include <cstdint>
#include <memory>

#include "tokensieve/export.h"

namespace tokensieve {

class TOKENSIEVE_API Executor {
 public:
  virtual ~Executor() = default;

  // Most threads that will call a task at once, >= 1.
  virtual int num_threads() const = 0;

  // Calls task(context, index, thread) once for every index in [0, count), 0 <= thread <
  // num_threads(), each thread number on one thread at a time. Indices are started in ascending
  // order (heaviest first is the caller's order). Returns when all are done. Must not throw.
  using Task = void (*)(void* context, int64_t index, int thread);
  virtual void run(int64_t count, Task task, void* context) = 0;

  // Lambda form.
  template <typename F>
  void parallel_for(int64_t count, F&& body) {
    run(
        count, [](void* f, int64_t index, int thread) { (*static_cast<F*>(f))(index, thread); },
        &body);
  }
};

// Runs everything on the calling thread.
TOKENSIEVE_API Executor& serial_executor();

// A pool of num_threads - 1 workers plus the calling thread; workers spin shortly, then sleep.
// num_threads 0 means the hardware's concurrency. One run at a time; destroy after the last run.
// The pool has fewer threads than asked for (num_threads() says) if the system refuses to start
// them.
TOKENSIEVE_API std::unique_ptr<Executor> make_thread_pool(int num_threads);

}  // namespace tokensieve
