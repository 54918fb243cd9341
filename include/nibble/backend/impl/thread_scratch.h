// Memory that a thread keeps from call to call.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "nibble/core/impl/of_thread.h"

namespace nibble::inline NIBBLE_ABI {

/// A T that is nobody else's while this lives, and the next one's of the same thread afterwards. A call that hands work
/// to an executor may find another call in its own thread before that is done (a pool whose waiting threads take any
/// task): then each has its own. Allocates only where more live at once than ever before.
template <class T>
class ThreadScratch {
 public:
  ThreadScratch() {
    Kept& kept = of_thread<Kept>();
    if (kept.free.empty()) {
      kept.free.reserve(kept.made + 1);  // so that giving it back cannot fail
      value_ = std::make_unique<T>();
      ++kept.made;
      return;
    }
    value_ = std::move(kept.free.back());
    kept.free.pop_back();
  }
  ~ThreadScratch() { of_thread<Kept>().free.push_back(std::move(value_)); }
  ThreadScratch(const ThreadScratch&) = delete;
  ThreadScratch& operator=(const ThreadScratch&) = delete;
  T& operator*() const { return *value_; }
  T* operator->() const { return value_.get(); }

 private:
  struct Kept {
    std::vector<std::unique_ptr<T>> free;
    std::size_t made = 0;
  };
  std::unique_ptr<T> value_;
};

}  // namespace nibble::inline NIBBLE_ABI
