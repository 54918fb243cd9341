// Children made by fork(), and what becomes of them within ten seconds.
#pragma once

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <thread>

#include "nibble/core/parallel.h"
#include "tests/support/sanitized.h"

namespace nibble::testing_support {

/// Whether a child may allocate that was made while other threads did. The C library sees to that; the sanitizers'
/// allocators (of clang 14 and gcc 12) leave the locks that those threads held locked in the child for ever.
constexpr bool forks_beside_threads = !sanitized;

constexpr int kInChild = -2, kHangs = -3;

inline bool is_child = false;
/// The leak checker asks at exit: what the parent's threads held is nobody's in a child.
extern "C" inline __attribute__((used)) int __lsan_is_turned_off() { return is_child ? 1 : 0; }

/// All threads of the pool have started, and met here, when this returns. One that is just starting allocates, which a
/// fork beside it may not find under a sanitizer (see forks_beside_threads).
inline void start_all_threads() {
  const int all = default_executor().concurrency();
  std::atomic<int> here{0};
  default_executor().run(static_cast<std::size_t>(all), [&](std::size_t) {
    for (++here; here < all;) std::this_thread::yield();
  });
}

/// In the parent the child's exit status, or kHangs (it is killed then); in the child kInChild.
inline int fork_and_wait() {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a child of its own that hangs ends with it
    is_child = true;
    return kInChild;
  }
  for (int i = 0; i < 1000; ++i) {
    int status = 0;
    if (::waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  return kHangs;
}

/// The exit status of a child that does `action`, which must end it.
template <class Action>
int exit_of(const Action& action) {
  const int status = fork_and_wait();
  if (status != kInChild) return status;
  action();
  ::_exit(99);
}

}  // namespace nibble::testing_support
