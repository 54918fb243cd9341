// What core/parallel.h declares.
#pragma once

#include "nibble/core/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "nibble/core/error.h"
#include "nibble/core/impl/held_over_fork.h"
#include "nibble/core/impl/threads.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

class SerialExecutor final : public Executor {
 public:
  int concurrency() const noexcept override { return 1; }
  void run(std::size_t count, FunctionRef<void(std::size_t)> task) override {
    for (std::size_t i = 0; i < count; ++i) task(i);
  }
};

/// The scopes that the calling thread is in, innermost first.
inline thread_local constinit const TaskScope* innermost_scope = nullptr;

/// All but the calling thread, of the one pool there is; null until its first use, and again in a child of fork(),
/// which has none of its parent's. Made and ended under the mutex.
inline constinit std::mutex pool_mutex;
inline constinit std::atomic<Threads*> pool_threads{nullptr};

/// Those of the parent would be waited for for ever if they were destroyed, and stay reachable, so that nobody takes
/// them for a leak.
inline constinit Threads* threads_of_parent = nullptr;
inline void begin_pool_of_child() {
  if (Threads* parents = pool_threads.exchange(nullptr)) threads_of_parent = parents;
}
inline const HeldOverFork<pool_mutex, begin_pool_of_child> pool_over_fork;

inline void end_pool() {
  const std::lock_guard lock(pool_mutex);
  delete pool_threads.exchange(nullptr);
}

/// Fewer than asked for where the system starts no more: results do not depend on how many there are. They end before
/// whatever was made at load, such as the keys of what each thread keeps.
inline Threads& threads_of_pool(int count) {
  if (Threads* ready = pool_threads.load(std::memory_order_acquire)) return *ready;
  const std::lock_guard lock(pool_mutex);
  if (Threads* ready = pool_threads.load(std::memory_order_relaxed)) return *ready;
  auto made = std::make_unique<Threads>(count);
  std::atexit(end_pool);
  pool_threads.store(made.get(), std::memory_order_release);
  return *made.release();
}

/// Threads plus the calling one; tasks are handed out one by one from a counter.
class PoolExecutor final : public Executor {
 public:
  int concurrency() const noexcept override { return concurrency_.load(std::memory_order_relaxed); }
  /// Known from its first use on.
  void set_concurrency(int threads) noexcept { concurrency_.store(threads, std::memory_order_relaxed); }

  void run(std::size_t count, FunctionRef<void(std::size_t)> task) override {
    if (TaskScope::inside(*this)) return serial_executor().run(count, task);
    Threads& threads = threads_of_pool(concurrency() - 1);
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
      const TaskScope scope(*this);
      for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
    };
    const std::size_t helpers = std::min(static_cast<std::size_t>(threads.count()) + 1, count);
    Threads::Job job{work, static_cast<unsigned>(helpers == 0 ? 0 : helpers - 1)};
    threads.start(job);
    work();
    if (pool_threads.load(std::memory_order_relaxed) != &threads)
      throw Error(ErrorCode::unsupported,
                  "a task called fork() and returned in the child, where the threads that had "
                  "the other tasks are gone; let the child end, or exec, inside the task");
    threads.finish(job);
  }

 private:
  std::atomic<int> concurrency_{0};
};

inline constinit SerialExecutor the_serial_executor;
inline constinit PoolExecutor the_pool;

/// CPUs this process may run on, which a container or taskset can make fewer than the machine has.
inline int usable_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

inline int default_thread_count() {
  const char* text = std::getenv("NIBBLE_THREADS");
  if (text == nullptr || *text == '\0') return usable_cpus();
  char* end = nullptr;
  const long wanted = std::strtol(text, &end, 10);
  if (*end != '\0' || wanted < 1 || wanted > 1024)
    throw Error(ErrorCode::invalid_argument,
                "NIBBLE_THREADS is '" + std::string(text) + "'; it must be a number from 1 to 1024");
  return static_cast<int>(wanted);
}

}  // namespace detail

NIBBLE_INLINE TaskScope::TaskScope(const Executor& executor) noexcept
    : executor_(&executor), outer_(detail::innermost_scope) {
  detail::innermost_scope = this;
}

NIBBLE_INLINE TaskScope::~TaskScope() { detail::innermost_scope = outer_; }

NIBBLE_INLINE bool TaskScope::inside(const Executor& executor) noexcept {
  for (const TaskScope* scope = detail::innermost_scope; scope != nullptr; scope = scope->outer_)
    if (scope->executor_ == &executor) return true;
  return false;
}

NIBBLE_INLINE Executor& serial_executor() { return detail::the_serial_executor; }

NIBBLE_INLINE Executor& default_executor() {
  int threads = detail::the_pool.concurrency();
  if (threads == 0) {
    threads = detail::default_thread_count();
    detail::the_pool.set_concurrency(threads);
  }
  if (threads == 1) return serial_executor();
  return detail::the_pool;
}

NIBBLE_INLINE void parallel_for(Executor& executor, std::size_t count, std::size_t grain,
                                FunctionRef<void(std::size_t, std::size_t)> body) {
  if (count == 0) return;
  if (TaskScope::inside(executor)) return body(0, count);
  // Several ranges per thread, so that a slow thread does not hold up the rest.
  const auto most = static_cast<std::size_t>(std::max(1, executor.concurrency())) * 8;
  const std::size_t tasks = std::min(most, std::max<std::size_t>(1, count / std::max<std::size_t>(1, grain)));
  if (tasks == 1 || executor.concurrency() == 1) return body(0, count);
  std::mutex mutex;
  std::exception_ptr first_error;
  std::size_t first_task = tasks;
  executor.run(tasks, [&](std::size_t i) {
    const TaskScope scope(executor);
    try {
      body(count * i / tasks, count * (i + 1) / tasks);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (i < first_task) {
        first_task = i;
        first_error = std::current_exception();
      }
    }
  });
  if (first_error) std::rethrow_exception(first_error);
}

}  // namespace nibble::inline NIBBLE_ABI
