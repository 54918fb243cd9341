// The sanitizers' calls for programs that switch stacks themselves. They are weak: the machine is compiled once, and
// finds the calls where the program that links it was built with that sanitizer.
#pragma once

#include <cstddef>

extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** save, const void* stack, std::size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* save, const void** old_stack, std::size_t* old_size);
[[gnu::weak]] void __asan_poison_memory_region(const volatile void* p, std::size_t bytes);
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void* p, std::size_t bytes);
[[gnu::weak]] int __asan_address_is_poisoned(const volatile void* p);
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* token);
[[gnu::weak]] void __tsan_release(void* token);
[[gnu::weak]] void AnnotateIgnoreReadsBegin(const char* file, int line);
[[gnu::weak]] void AnnotateIgnoreReadsEnd(const char* file, int line);
[[gnu::weak]] void AnnotateIgnoreWritesBegin(const char* file, int line);
[[gnu::weak]] void AnnotateIgnoreWritesEnd(const char* file, int line);
}

namespace nibble::cuda_emulation {

inline bool detects_races() { return __tsan_create_fiber != nullptr; }
inline bool detects_bounds() { return __asan_poison_memory_region != nullptr; }

/// What was released on a token happens before what follows an acquire of it. A token is any address.
inline void release(void* token) {
  if (detects_races()) __tsan_release(token);
}
inline void acquire(void* token) {
  if (detects_races()) __tsan_acquire(token);
}

/// While it lives, the race detector overlooks what the running fiber does: the machine's own allocations and copies
/// are no accesses of the kernel's.
class Unseen {
 public:
  Unseen() {
    if (!detects_races()) return;
    AnnotateIgnoreReadsBegin("", 0);
    AnnotateIgnoreWritesBegin("", 0);
  }
  ~Unseen() {
    if (!detects_races()) return;
    AnnotateIgnoreWritesEnd("", 0);
    AnnotateIgnoreReadsEnd("", 0);
  }
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

}  // namespace nibble::cuda_emulation
