// Who may work at once: many together, or one alone, as a measurement of speed has to be.
#pragma once

#include <condition_variable>
#include <mutex>

namespace nibble::cli {

class Turns {
 public:
  /// Runs `work` beside others that run together.
  template <class Work>
  void together(const Work& work) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !alone_ && waiting_ == 0; });  // who would be alone comes first, or never would
    ++together_;
    const Leave leave{*this, lock, [](Turns& t) { --t.together_; }};
    work();
  }
  /// Runs `work` while nothing else runs.
  template <class Work>
  void alone(const Work& work) {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.wait(lock, [&] { return !alone_ && together_ == 0; });
    --waiting_;
    alone_ = true;
    const Leave leave{*this, lock, [](Turns& t) { t.alone_ = false; }};
    work();
  }

 private:
  /// Gives the lock up while the work runs, and ends the turn however that ends.
  struct Leave {
    Leave(Turns& turns, std::unique_lock<std::mutex>& lock, void (*end)(Turns&))
        : turns_(turns), lock_(lock), end_(end) {
      lock_.unlock();
    }
    ~Leave() {
      lock_.lock();
      end_(turns_);
      turns_.changed_.notify_all();
    }
    Leave(const Leave&) = delete;
    Leave& operator=(const Leave&) = delete;

   private:
    Turns& turns_;
    std::unique_lock<std::mutex>& lock_;
    void (*end_)(Turns&);
  };

  std::mutex mutex_;
  std::condition_variable changed_;
  int together_ = 0, waiting_ = 0;
  bool alone_ = false;
};

}  // namespace nibble::cli
