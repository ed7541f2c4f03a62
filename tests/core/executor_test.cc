// Executors keep the contract of executor.h; run under TSan too.
#include "tokensieve/executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace tokensieve {
namespace {

class ThreadPool : public testing::TestWithParam<int> {};

void expect_each_index_once(Executor& executor, int64_t count) {
  std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
  std::vector<std::atomic<int>> busy(static_cast<size_t>(executor.num_threads()));
  std::atomic<bool> thread_in_range{true}, thread_exclusive{true};
  executor.parallel_for(count, [&](int64_t index, int thread) {
    if (thread < 0 || thread >= executor.num_threads()) {
      thread_in_range = false;
      return;
    }
    if (busy[thread].fetch_add(1) != 0) thread_exclusive = false;
    seen[index].fetch_add(1);
    busy[thread].fetch_sub(1);
  });
  EXPECT_TRUE(thread_in_range);
  EXPECT_TRUE(thread_exclusive);
  for (int64_t i = 0; i < count; ++i) ASSERT_EQ(seen[i], 1) << "index " << i << " of " << count;
}

TEST(SerialExecutor, RunsInOrderOnOneThread) {
  EXPECT_EQ(serial_executor().num_threads(), 1);
  std::vector<int64_t> order;
  serial_executor().parallel_for(5, [&](int64_t index, int thread) {
    EXPECT_EQ(thread, 0);
    order.push_back(index);
  });
  EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 4}));
}

TEST_P(ThreadPool, RunsEachIndexOnce) {
  const std::unique_ptr<Executor> pool = make_thread_pool(GetParam());
  EXPECT_EQ(pool->num_threads(), GetParam());
  for (const int64_t count : {0, 1, 2, 3, 7, 64, 1000}) expect_each_index_once(*pool, count);
}

TEST_P(ThreadPool, SurvivesManySmallRuns) {
  const std::unique_ptr<Executor> pool = make_thread_pool(GetParam());
  // Plain integers: the pool itself must order one run's writes before the next run's reads.
  std::vector<int64_t> sums(static_cast<size_t>(pool->num_threads()), 0);
  int64_t expected = 0;
  for (int run = 0; run < 2000; ++run) {
    const int64_t count = run % 5;
    pool->parallel_for(count, [&](int64_t index, int thread) { sums[thread] += index + 1; });
    expected += count * (count + 1) / 2;
  }
  int64_t sum = 0;
  for (const int64_t value : sums) sum += value;
  EXPECT_EQ(sum, expected);
}

TEST_P(ThreadPool, WritesAreVisibleToTheCaller) {
  const std::unique_ptr<Executor> pool = make_thread_pool(GetParam());
  std::vector<int64_t> values(5000, -1);
  pool->parallel_for(5000, [&](int64_t index, int) { values[index] = index * index; });
  for (int64_t i = 0; i < 5000; ++i) ASSERT_EQ(values[i], i * i);
}

TEST_P(ThreadPool, DestroysIdleAndUnusedPools) {
  for (int i = 0; i < 20; ++i) {
    const std::unique_ptr<Executor> unused = make_thread_pool(GetParam());
    const std::unique_ptr<Executor> used = make_thread_pool(GetParam());
    std::atomic<int> calls{0};
    used->parallel_for(3, [&](int64_t, int) { ++calls; });
    EXPECT_EQ(calls, 3);
  }
}

TEST_P(ThreadPool, RunsTasksAtTheSameTime) {
  const std::unique_ptr<Executor> pool = make_thread_pool(GetParam());
  // Each task waits until all of them have started.
  std::atomic<int> started{0};
  const int tasks = pool->num_threads();
  pool->parallel_for(tasks, [&](int64_t, int) {
    ++started;
    while (started < tasks) std::this_thread::yield();
  });
  EXPECT_EQ(started, tasks);
}

TEST_P(ThreadPool, StartsIndicesInAscendingOrder) {
  const std::unique_ptr<Executor> pool = make_thread_pool(GetParam());
  std::vector<int64_t> last(static_cast<size_t>(GetParam()), -1);
  std::atomic<bool> ascending{true};
  pool->parallel_for(500, [&](int64_t index, int thread) {
    if (index <= last[thread]) ascending = false;
    last[thread] = index;
  });
  EXPECT_TRUE(ascending);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPool, testing::Values(1, 2, 3, 8));

TEST(ThreadPool, ZeroMeansTheHardware) { EXPECT_GE(make_thread_pool(0)->num_threads(), 1); }

}  // namespace
}  // namespace tokensieve
