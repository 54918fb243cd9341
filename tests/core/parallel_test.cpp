#include "nibble/core/parallel.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "nibble/core/error.h"
#include "tests/support/child.h"

namespace nibble {
namespace {

using testing_support::exit_of;
using testing_support::start_all_threads;

/// Before the pool is made: threads even where there is one CPU.
const int threads_are_set = ::setenv("NIBBLE_THREADS", "4", 1);

/// Whether all of [0, count) is met once by a parallel_for on `executor`.
bool covers(Executor& executor, std::size_t count) {
  std::vector<std::atomic<int>> hits(count);
  parallel_for(executor, count, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) ++hits[i];
  });
  for (auto& h : hits)
    if (h != 1) return false;
  return true;
}

/// The pool that an engine might have: two threads, one job at a time, and no way to call it from its own tasks.
class SimplePool final : public Executor {
 public:
  int concurrency() const noexcept override { return 2; }
  void run(std::size_t count, FunctionRef<void(std::size_t)> task) override {
    if (busy_.exchange(true)) throw std::logic_error("run() was called from one of its tasks");
    std::thread other([&] {
      for (std::size_t i = 1; i < count; i += 2) task(i);
    });
    for (std::size_t i = 0; i < count; i += 2) task(i);
    other.join();
    busy_ = false;
  }

 private:
  std::atomic<bool> busy_{false};
};

TEST(ParallelFor, CoversEveryIndexOnce) {
  for (std::size_t count : {0u, 1u, 2u, 7u, 1000u}) {
    std::vector<std::atomic<int>> hits(count);
    parallel_for(default_executor(), count, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) ++hits[i];
    });
    for (auto& h : hits) EXPECT_EQ(h, 1);
  }
}

TEST(ParallelFor, RethrowsTheErrorOfTheLowestRange) {
  for (int repeat = 0; repeat < 50; ++repeat) {
    try {
      parallel_for(default_executor(), 100, 1,
                   [](std::size_t begin, std::size_t) { throw std::out_of_range(std::to_string(begin)); });
      FAIL();
    } catch (const std::out_of_range& e) {
      EXPECT_STREQ(e.what(), "0");
    }
  }
}

TEST(DefaultExecutor, ServesSeveralCallersAtOnce) {
  std::atomic<long> sum{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat)
        parallel_for(default_executor(), 64, 1,
                     [&](std::size_t begin, std::size_t end) { sum += static_cast<long>(end - begin); });
    });
  for (auto& t : callers) t.join();
  EXPECT_EQ(sum, 4 * 200 * 64);
}

TEST(DefaultExecutor, RunsWhatItsOwnTasksAskForOnTheirThread) {
  std::atomic<int> covered{0}, elsewhere{0};
  default_executor().run(64, [&](std::size_t) {
    covered += covers(default_executor(), 100);
    const auto here = std::this_thread::get_id();
    default_executor().run(10, [&](std::size_t) { elsewhere += std::this_thread::get_id() != here; });
  });
  EXPECT_EQ(covered, 64);
  EXPECT_EQ(elsewhere, 0);
  EXPECT_FALSE(TaskScope::inside(default_executor()));
}

TEST(ParallelFor, NestsThreeDeepAndStillRethrows) {
  std::atomic<int> covered{0};
  const auto deep = [&] {
    parallel_for(default_executor(), 16, 1, [&](std::size_t, std::size_t) {
      parallel_for(default_executor(), 16, 1, [&](std::size_t, std::size_t) {
        covered += covers(default_executor(), 16);
        throw std::out_of_range("deep");
      });
    });
  };
  EXPECT_THROW(deep(), std::out_of_range);
  EXPECT_GT(covered, 0);
  EXPECT_TRUE(covers(default_executor(), 1000));
}

TEST(ParallelFor, DoesNotCallAnEnginesPoolFromItsTasks) {
  SimplePool pool;
  std::atomic<int> covered{0};
  parallel_for(pool, 8, 1, [&](std::size_t begin, std::size_t end) {
    EXPECT_TRUE(TaskScope::inside(pool));
    for (std::size_t i = begin; i < end; ++i) covered += covers(pool, 50);
  });
  EXPECT_EQ(covered, 8);
}

TEST(TaskScope, MarksTasksThatAnEngineStartsByItself) {
  SimplePool pool;
  std::atomic<int> covered{0};
  pool.run(8, [&](std::size_t) {
    const TaskScope scope(pool);
    covered += covers(pool, 50);
    covered += covers(default_executor(), 50);  // another executor: its threads are free
  });
  EXPECT_EQ(covered, 16);
  EXPECT_TRUE(covers(pool, 50));
}

TEST(DefaultExecutor, WorksInAChildOfFork) {
  ASSERT_TRUE(covers(default_executor(), 1000));
  start_all_threads();
  EXPECT_EQ(exit_of([] { ::_exit(covers(default_executor(), 1000) ? 0 : 1); }), 0);
  EXPECT_EQ(exit_of([] { std::exit(covers(default_executor(), 1000) ? 0 : 1); }), 0) << "destructors run, too";
  EXPECT_EQ(exit_of([] { std::exit(0); }), 0) << "even where the child never used the pool";
  EXPECT_EQ(exit_of([] {
              start_all_threads();
              const int grandchild = exit_of([] { ::_exit(covers(default_executor(), 1000) ? 0 : 1); });
              ::_exit(covers(default_executor(), 1000) ? grandchild : 1);
            }),
            0);
  EXPECT_TRUE(covers(default_executor(), 1000)) << "the parent keeps its own";
}

TEST(DefaultExecutor, ForksWhileOtherThreadsUseIt) {
  start_all_threads();
  std::atomic<bool> stop{false};
  std::atomic<std::size_t> covered{0};
  std::thread busy([&] {
    while (!stop) default_executor().run(64, [&](std::size_t) { ++covered; });
  });
  while (covered < 1000) std::this_thread::yield();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(exit_of([] { ::_exit(covers(default_executor(), 64) ? 0 : 1); }), 0);
  stop = true;
  busy.join();
}

TEST(DefaultExecutor, ForksWhileAnotherThreadUsesItForTheFirstTime) {
  if (!testing_support::forks_beside_threads)
    GTEST_SKIP() << "a child may wait for a lock of the sanitizer's allocator";
  for (int i = 0; i < 100; ++i) {
    // Each child has threads to start anew, and starts them a little earlier or later than it forks.
    const int status = exit_of([i] {
      std::atomic<bool> running{false};
      std::thread first([&] {
        running = true;
        (void)covers(default_executor(), 64);
      });
      while (!running) std::this_thread::yield();
      for (std::atomic<int> wait{i * 100}; wait > 0; --wait) {
      }
      const int grandchild = exit_of([] { ::_exit(covers(default_executor(), 64) ? 0 : 1); });
      first.join();
      ::_exit(grandchild);
    });
    ASSERT_EQ(status, 0) << "at the " << i << "th fork";
  }
}

TEST(DefaultExecutor, SaysSoWhereATaskForkedAndReturned) {
  start_all_threads();
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> forked{false};
  int status = -1;
  const auto fork_in_a_task = [&] {
    default_executor().run(4, [&](std::size_t) {
      if (std::this_thread::get_id() != caller) {
        while (!forked) std::this_thread::yield();  // so that the caller has one of the tasks
        return;
      }
      if (!forked.exchange(true)) status = testing_support::fork_and_wait();
    });
  };
  try {
    fork_in_a_task();
  } catch (const Error& e) {
    ::_exit(e.code() == ErrorCode::unsupported ? 3 : 1);  // only a child comes here
  }
  ASSERT_NE(status, testing_support::kInChild) << "the child went on as if all tasks were done";
  EXPECT_EQ(status, 3);
}

}  // namespace
}  // namespace nibble
