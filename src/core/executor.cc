#include "tokensieve/executor.h"

#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tokensieve {
namespace {

class SerialExecutor final : public Executor {
 public:
  int num_threads() const override { return 1; }
  void run(int64_t count, Task task, void* context) override {
    for (int64_t i = 0; i < count; ++i) task(context, i, 0);
  }
};

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Workers wait for `generation_` to move: first spinning (a prefill issues runs back to back),
// then asleep in the futex behind std::atomic::wait. A run is over when its indices are done, not
// when every worker has woken up: a worker enters through `gate_`, which the caller closes once
// nothing is left to start, so that a late worker finds it shut and costs no time.
class ThreadPool final : public Executor {
 public:
  explicit ThreadPool(int num_threads) {
    workers_.reserve(static_cast<size_t>(num_threads));
    try {
      for (int thread = 1; thread < num_threads; ++thread) {
        workers_.emplace_back([this, thread] { work(thread); });
      }
    } catch (const std::system_error&) {
      // The system's limit: go on with the workers that started.
    }
  }

  ~ThreadPool() override {
    stop_.store(true, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int num_threads() const override { return static_cast<int>(workers_.size()) + 1; }

  void run(int64_t count, Task task, void* context) override {
    if (count <= 0) return;
    if (count == 1 || workers_.empty()) {
      for (int64_t i = 0; i < count; ++i) task(context, i, 0);
      return;
    }
    task_ = task;
    context_ = context;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    gate_.store(kOpen, std::memory_order_release);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    drain(0);
    uint32_t inside = gate_.fetch_sub(kOpen, std::memory_order_acquire) - kOpen;
    for (int spin = 0; inside != 0; ++spin) {
      spin < kSpins ? relax() : gate_.wait(inside, std::memory_order_acquire);
      inside = gate_.load(std::memory_order_acquire);
    }
  }

 private:
  void drain(int thread) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
      task_(context_, i, thread);
    }
  }

  bool enter() {
    uint32_t gate = gate_.load(std::memory_order_relaxed);
    while (gate & kOpen) {
      if (gate_.compare_exchange_weak(gate, gate + kWorker, std::memory_order_acquire)) return true;
    }
    return false;
  }

  void leave() {
    if (gate_.fetch_sub(kWorker, std::memory_order_release) == kWorker) gate_.notify_one();
  }

  void work(int thread) {
    uint32_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen;
           ++spin) {
        relax();
      }
      generation_.wait(seen, std::memory_order_acquire);
      seen = generation_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_relaxed)) return;
      if (!enter()) continue;
      drain(thread);
      leave();
    }
  }

  static constexpr int kSpins = 2000;  // about 50 us: longer than the gap between two phases
  static constexpr uint32_t kOpen = 1, kWorker = 2;

  std::vector<std::thread> workers_;
  std::atomic<uint32_t> generation_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> next_{0};
  std::atomic<uint32_t> gate_{0};  // kOpen while workers may enter, + kWorker for each inside
  Task task_ = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace

Executor& serial_executor() {
  static SerialExecutor executor;
  return executor;
}

std::unique_ptr<Executor> make_thread_pool(int num_threads) {
  if (num_threads <= 0) num_threads = static_cast<int>(std::thread::hardware_concurrency());
  return std::make_unique<ThreadPool>(num_threads < 1 ? 1 : num_threads);
}

}  // namespace tokensieve
