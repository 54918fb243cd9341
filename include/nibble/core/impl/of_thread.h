// One object for each thread.
#pragma once

#include <pthread.h>

#include <memory>
#include <new>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI {

/// Made when the program or the library is loaded, before any thread that may use it, and so deleted after a pool of
/// threads has ended: a thread that outlived its key would keep its object for ever.
template <class T>
class ThreadKey {
 public:
  ThreadKey() : made_(::pthread_key_create(&key_, [](void* p) { delete static_cast<T*>(p); }) == 0) {}
  ~ThreadKey() {
    if (made_) ::pthread_key_delete(key_);  // a library that is unloaded leaves nothing that calls into it
  }
  ThreadKey(const ThreadKey&) = delete;
  ThreadKey& operator=(const ThreadKey&) = delete;

  T& get() const {
    if (!made_) throw std::bad_alloc();
    if (void* there = ::pthread_getspecific(key_)) return *static_cast<T*>(there);
    auto made = std::make_unique<T>();
    if (::pthread_setspecific(key_, made.get()) != 0) throw std::bad_alloc();
    return *made.release();
  }

  static const ThreadKey instance;

 private:
  pthread_key_t key_{};
  bool made_;
};

template <class T>
inline const ThreadKey<T> ThreadKey<T>::instance;

/// The calling thread's own T, made at its first call and destroyed at the thread's end. A `thread_local` object would
/// say the same, were it not that glibc ends the process where it has no memory left to note a destructor.
/// std::bad_alloc.
template <class T>
T& of_thread() {
  return ThreadKey<T>::instance.get();
}

}  // namespace nibble::inline NIBBLE_ABI
