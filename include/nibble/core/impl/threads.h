// The threads behind the default executor: they help whoever has a job, one job after another.
//
// Nothing here allocates but the constructor, and where that cannot start all threads it does with those it has.
// (Eigen's pool, which would serve otherwise, does not look whether its memory is there, and waits for ever when a
// thread is not.)
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "nibble/core/function_ref.h"

namespace nibble::inline NIBBLE_ABI {

/// Tells the core that this thread waits in a loop.
inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Threads {
 public:
  /// Lies on the stack of its caller from start() to the end of finish().
  struct Job {
    FunctionRef<void()> help;         ///< Called once on each helper; never throws.
    unsigned wanted;                  ///< Helpers that may still join.
    std::atomic<unsigned> active{0};  ///< Helpers at work.
    Job* next = nullptr;
  };

  explicit Threads(int count) {
    try {
      threads_.reserve(static_cast<std::size_t>(count));
      for (int i = 0; i < count; ++i) threads_.emplace_back([this] { serve(); });
    } catch (const std::exception&) {  // std::system_error, std::bad_alloc
    }
  }
  ~Threads() {
    {
      const std::lock_guard lock(mutex_);
      stopping_.store(true);
    }
    wake_.notify_all();
    for (std::thread& t : threads_) t.join();
  }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  [[nodiscard]] int count() const { return static_cast<int>(threads_.size()); }

  /// Threads that are free, and those that become so, join the job.
  void start(Job& job) {
    if (job.wanted == 0) return;
    const bool one = job.wanted == 1;
    {
      const std::lock_guard lock(mutex_);
      Job** end = &first_;
      while (*end != nullptr) end = &(*end)->next;
      *end = &job;
      has_job_.store(true, std::memory_order_release);
    }
    if (one) wake_.notify_one();
    else wake_.notify_all();
  }

  /// Lets nobody join any more, and returns when those who did are done.
  void finish(Job& job) {
    {
      const std::lock_guard lock(mutex_);
      if (job.wanted > 0) remove(job);
    }
    // They end a moment after the caller: far sooner than it could be put to sleep and woken.
    for (int i = 0; i < 4000; ++i) {
      if (job.active.load(std::memory_order_acquire) == 0) return;
      pause();
    }
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return job.active.load(std::memory_order_acquire) == 0; });
  }

 private:
  void serve() {
    for (;;) {
      // The next job mostly comes soon: a layer's matrices follow one another.
      for (int i = 0; i < 2000 && !has_job_.load(std::memory_order_acquire); ++i) pause();
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return first_ != nullptr || stopping_.load(); });
      if (first_ == nullptr) return;
      Job& job = *first_;
      job.active.fetch_add(1, std::memory_order_relaxed);
      if (--job.wanted == 0) remove(job);
      lock.unlock();
      job.help();
      lock.lock();
      // After this the job may be gone.
      if (job.active.fetch_sub(1, std::memory_order_release) == 1) done_.notify_all();
    }
  }
  void remove(Job& job) {
    Job** at = &first_;
    while (*at != &job) at = &(*at)->next;
    *at = job.next;
    job.wanted = 0;
    has_job_.store(first_ != nullptr, std::memory_order_release);
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job* first_ = nullptr;  ///< Those that more helpers may join.
  std::atomic<bool> has_job_{false}, stopping_{false};
  std::vector<std::thread> threads_;  ///< Last: they use the rest.
};

}  // namespace nibble::inline NIBBLE_ABI
