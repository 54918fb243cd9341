// Children made by fork(), and what becomes of them within ten seconds.
#pragma once

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <thread>

namespace nibble::testing_support {

constexpr int kInChild = -2, kHangs = -3;

inline bool is_child = false;
/// The leak checker asks at exit: what the parent's threads held is nobody's in a child.
extern "C" inline __attribute__((used)) int __lsan_is_turned_off() { return is_child ? 1 : 0; }

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
