#include "child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <string_view>
#include <system_error>
#include <thread>

#include "commands.h"
#include "core/files.h"
#include "interrupt.h"
#include "nibble/core/error.h"

extern char** environ;

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;

/// What a step said of its failure: its last message without the tool's name, or how it ended.
std::string failure_of(int status, std::string said) {
  if (WIFSIGNALED(status))
    return fmt::format("ended by signal {} ({}){}", WTERMSIG(status), strsignal(WTERMSIG(status)),
                       WTERMSIG(status) == SIGKILL ? ": was there memory enough?" : "");
  constexpr std::string_view name = "nibble: ";
  while (said.ends_with('\n')) said.pop_back();
  const std::size_t at = said.rfind("\n" + std::string(name));
  if (at != std::string::npos) said.erase(0, at + 1);
  if (said.starts_with(name)) said.erase(0, name.size());
  return said.empty() ? fmt::format("ended with status {}", WEXITSTATUS(status)) : said;
}

/// This process's environment, but for the number of threads.
std::vector<std::string> environment_of(int threads) {
  constexpr std::string_view variable = "NIBBLE_THREADS=";
  std::vector<std::string> out;
  for (char** v = environ; *v != nullptr; ++v)
    if (threads == 0 || !std::string_view(*v).starts_with(variable)) out.emplace_back(*v);
  if (threads != 0) out.push_back(std::string(variable) + std::to_string(threads));
  return out;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (auto& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

pid_t start(std::vector<std::string> arguments, const fs::path& log, int threads) {
  std::vector<std::string> environment = environment_of(threads);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t child = 0;
  const int error = posix_spawn(&child, "/proc/self/exe", &actions, nullptr, pointers(arguments).data(),
                                pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    throw Error(ErrorCode::io, fmt::format("cannot start '{}': {}", fmt::join(arguments, " "),
                                           std::generic_category().message(error)));
  return child;
}

/// Its status. A terminal's Ctrl-C reaches the child as it does this process; one that was sent to this process alone
/// is handed on after two seconds, which is longer than a child needs that was told.
int wait_for(pid_t child) {
  using Clock = std::chrono::steady_clock;
  constexpr auto pause = std::chrono::milliseconds(10);
  int status = 0;
  Clock::time_point told = Clock::time_point::max();
  for (;;) {
    const pid_t ended = ::waitpid(child, &status, WNOHANG);
    if (ended == child) return status;
    if (ended < 0 && errno != EINTR)
      throw Error(ErrorCode::io, "cannot wait for a step: " + std::generic_category().message(errno));
    if (interrupted()) {
      if (told == Clock::time_point::max()) told = Clock::now();
      if (Clock::now() - told > std::chrono::seconds(2)) {
        (void)::kill(child, SIGINT);
        told = Clock::now() + std::chrono::hours(1);  // once
      }
    }
    std::this_thread::sleep_for(pause);
  }
}

}  // namespace

void run_self(std::vector<std::string> arguments, const fs::path& log, int threads) {
  arguments.insert(arguments.begin(), "nibble");
  if (chosen_backend() != nullptr)
    arguments.insert(arguments.end(), {"--backend", std::string(chosen_backend()->name())});
  const int status = wait_for(start(std::move(arguments), log, threads));
  if (interrupted() || (WIFEXITED(status) && WEXITSTATUS(status) == kInterruptedExit))
    throw Error(ErrorCode::cancelled, "interrupted");
  const std::string said = files::exists(log) ? files::read_text(log) : std::string();
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) throw Error(ErrorCode::io, failure_of(status, said));
  fmt::print(stderr, "{}", said);  // warnings
}

}  // namespace nibble::cli
