#include "nibble/core/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include "nibble/core/error.h"
#include "threads.h"

namespace nibble {

namespace {

class SerialExecutor final : public Executor {
 public:
  int concurrency() const noexcept override { return 1; }
  void run(std::size_t count, FunctionRef<void(std::size_t)> task) override {
    for (std::size_t i = 0; i < count; ++i) task(i);
  }
};

/// A pool of threads plus the calling one; tasks are handed out one by one from a counter.
class PoolExecutor final : public Executor {
 public:
  explicit PoolExecutor(int threads) : threads_(threads - 1) {}
  int concurrency() const noexcept override { return threads_.count() + 1; }

  void run(std::size_t count, FunctionRef<void(std::size_t)> task) override {
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
      for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
    };
    const auto helpers = std::min<std::size_t>(static_cast<std::size_t>(threads_.count()), count - (count > 0));
    Threads::Job job{work, static_cast<unsigned>(helpers)};
    threads_.start(job);
    work();
    threads_.finish(job);
  }

 private:
  Threads threads_;
};

/// CPUs this process may run on, which a container or taskset can make fewer than the machine has.
int usable_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int default_thread_count() {
  const char* text = std::getenv("NIBBLE_THREADS");
  if (text == nullptr || *text == '\0') return usable_cpus();
  char* end = nullptr;
  const long wanted = std::strtol(text, &end, 10);
  if (*end != '\0' || wanted < 1 || wanted > 1024)
    throw Error(ErrorCode::invalid_argument,
                "NIBBLE_THREADS is '" + std::string(text) + "'; it must be a number from 1 to 1024");
  return static_cast<int>(wanted);
}

}  // namespace

Executor& serial_executor() {
  static SerialExecutor executor;
  return executor;
}

Executor& default_executor() {
  static const int threads = default_thread_count();
  if (threads == 1) return serial_executor();
  static PoolExecutor executor(threads);
  return executor;
}

void parallel_for(Executor& executor, std::size_t count, std::size_t grain,
                  FunctionRef<void(std::size_t, std::size_t)> body) {
  if (count == 0) return;
  // Several ranges per thread, so that a slow thread does not hold up the rest.
  const auto most = static_cast<std::size_t>(std::max(1, executor.concurrency())) * 8;
  const std::size_t tasks = std::min(most, std::max<std::size_t>(1, count / std::max<std::size_t>(1, grain)));
  if (tasks == 1 || executor.concurrency() == 1) return body(0, count);
  std::mutex mutex;
  std::exception_ptr first_error;
  std::size_t first_task = tasks;
  executor.run(tasks, [&](std::size_t i) {
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

}  // namespace nibble
