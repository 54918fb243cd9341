// Stacks that one thread of the host switches between.
//
// A switch saves what the ABI lets a function expect of a call: the callee-saved registers and the stack pointer.
// x86-64 and AArch64 have their own in a few instructions; elsewhere ucontext does it, with a system call for the
// signal mask.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(__aarch64__) && !defined(NIBBLE_FIBER_UCONTEXT)
#define NIBBLE_FIBER_UCONTEXT  // may be defined elsewhere, too
#endif
#ifdef NIBBLE_FIBER_UCONTEXT
#include <ucontext.h>
#endif

namespace nibble::cuda_emulation {

class Fiber {
 public:
  /// The stack that runs already.
  Fiber();
  /// A new stack, with an unmapped page below it, on which `entry` will run. It must never return.
  explicit Fiber(void (*entry)());
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Leaves this fiber, which must be the running one, for another; returns when someone switches back. To the race
  /// detector a switch orders nothing.
  void switch_to(Fiber& other);
  /// The first thing that `entry` does: tells the sanitizers that the switch is over. `from`: who switched.
  static void arrived_from(Fiber& from);

 private:
  static constexpr std::size_t kStackBytes = 512 << 10;  // instrumented kernels need more than plain ones
  static constexpr std::size_t kGuardBytes = 64 << 10;   // a multiple of every page size
  void prepare(void (*entry)());

#ifdef NIBBLE_FIBER_UCONTEXT
  ucontext_t context_{};
#else
  void* stack_pointer_ = nullptr;
#endif
  char* mapping_ = nullptr;
  const void* stack_ = nullptr;
  std::size_t stack_bytes_ = 0;
  void* race_detector_ = nullptr;
  void* fake_stack_ = nullptr;
};

}  // namespace nibble::cuda_emulation
