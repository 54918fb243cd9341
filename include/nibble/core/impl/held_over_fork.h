// Locks of a whole process that a child of fork() finds open.
#pragma once

#include <pthread.h>

#include <mutex>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI {

/// An object beside a mutex that lives as long as the program or library does. fork() takes that mutex first, so that
/// no other thread is inside at that moment: the child has only the thread that called fork(), and whatever another
/// one held would stay locked in it. `in_child` runs there while the mutex is still held.
///
/// For the same reason nothing that a child may need is a `static` object of a function that is made when it is first
/// reached: its guard is such a lock.
template <std::mutex& mutex, void (*in_child)() = nullptr>
class HeldOverFork {
 public:
  HeldOverFork() {
    ::pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); },
                     [] {
                       if constexpr (in_child != nullptr) in_child();
                       mutex.unlock();
                     });
  }
};

}  // namespace nibble::inline NIBBLE_ABI
