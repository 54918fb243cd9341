// One object for each thread.
#pragma once

#include <pthread.h>

#include <memory>
#include <new>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI {

/// The calling thread's own T, made at its first call and destroyed at the thread's end. A `thread_local` object would
/// say the same, were it not that glibc ends the process where it has no memory left to note a destructor.
/// std::bad_alloc.
template <class T>
T& of_thread() {
  struct Key {
    Key() {
      if (::pthread_key_create(&key, [](void* p) { delete static_cast<T*>(p); }) != 0) throw std::bad_alloc();
    }
    ~Key() { ::pthread_key_delete(key); }  // a library that is unloaded leaves nothing that calls into it
    pthread_key_t key{};
  };
  static const Key key;
  if (void* there = ::pthread_getspecific(key.key)) return *static_cast<T*>(there);
  auto made = std::make_unique<T>();
  if (::pthread_setspecific(key.key, made.get()) != 0) throw std::bad_alloc();
  return *made.release();
}

}  // namespace nibble::inline NIBBLE_ABI
