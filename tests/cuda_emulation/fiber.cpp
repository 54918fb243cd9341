#include "cuda_emulation/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "cuda_emulation/sanitizer.h"

namespace nibble::cuda_emulation {

#if defined(NIBBLE_FIBER_UCONTEXT)
#elif defined(__x86_64__)
// System V ABI: rbx, rbp, r12–r15. (The control words of x87 and SSE are callee-saved too, but kernels do not set
// them.)
extern "C" void nibble_fiber_switch(void** save_stack_pointer, void* stack_pointer);
asm(R"(
.text
.type nibble_fiber_switch, @function
nibble_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size nibble_fiber_switch, . - nibble_fiber_switch
)");
#elif defined(__aarch64__)
// AAPCS64: x19–x30 and the lower halves of v8–v15.
extern "C" void nibble_fiber_switch(void** save_stack_pointer, void* stack_pointer);
asm(R"(
.text
.type nibble_fiber_switch, %function
nibble_fiber_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size nibble_fiber_switch, . - nibble_fiber_switch
)");
#endif

Fiber::Fiber() {
  if (detects_races()) race_detector_ = __tsan_get_current_fiber();
}

Fiber::Fiber(void (*entry)()) {
  void* const mapping = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<char*>(mapping);
  mprotect(mapping_, kGuardBytes, PROT_NONE);
  stack_ = mapping_ + kGuardBytes;
  stack_bytes_ = kStackBytes;
  if (detects_races()) race_detector_ = __tsan_create_fiber(0);
  prepare(entry);
}

Fiber::~Fiber() {
  if (mapping_ == nullptr) return;
  if (detects_bounds()) __asan_unpoison_memory_region(stack_, stack_bytes_);
  munmap(mapping_, kGuardBytes + kStackBytes);
}

void Fiber::prepare(void (*entry)()) {
#if defined(NIBBLE_FIBER_UCONTEXT)
  getcontext(&context_);
  context_.uc_stack.ss_sp = mapping_ + kGuardBytes;
  context_.uc_stack.ss_size = kStackBytes;
  makecontext(&context_, entry, 0);
#else
  auto** top = reinterpret_cast<void**>(mapping_ + kGuardBytes + kStackBytes);
#if defined(__x86_64__)
  top -= 8;  // six registers, the return address, and the zero above which a function finds the stack aligned
  top[6] = reinterpret_cast<void*>(entry);
#else
  top -= 20;
  top[11] = reinterpret_cast<void*>(entry);  // x30, the link register
#endif
  stack_pointer_ = top;
#endif
}

void Fiber::switch_to(Fiber& other) {
  constexpr unsigned no_order = 1;
  if (detects_races()) __tsan_switch_to_fiber(other.race_detector_, no_order);
  if (__sanitizer_start_switch_fiber != nullptr)
    __sanitizer_start_switch_fiber(&fake_stack_, other.stack_, other.stack_bytes_);
#if defined(NIBBLE_FIBER_UCONTEXT)
  swapcontext(&context_, &other.context_);
#else
  nibble_fiber_switch(&stack_pointer_, other.stack_pointer_);
#endif
  if (__sanitizer_finish_switch_fiber != nullptr) __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
}

void Fiber::arrived_from(Fiber& from) {
  if (__sanitizer_finish_switch_fiber == nullptr) return;
  const void* stack = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &stack, &bytes);
  if (from.mapping_ != nullptr) return;
  from.stack_ = stack;  // the host thread's own stack, which only the sanitizer knew
  from.stack_bytes_ = bytes;
}

}  // namespace nibble::cuda_emulation
