// Ctrl-C at any moment leaves a whole output or none.
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "cli/interrupt.h"
#include "core/pending.h"
#include "nibble/format/safetensors.h"
#include "tests/support/child.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_model.h"

extern char** environ;

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

/// 84 MB of weights: long enough to be interrupted.
void make_model(const fs::path& folder) {
  TinyModel model;
  model.hidden = 1024, model.intermediate = 2048, model.heads = 8, model.kv_heads = 8, model.type = DType::f32;
  write_model(folder, model);
}

int interrupted_after(std::chrono::microseconds delay, const std::string& model, const std::string& output) {
  std::string arguments[] = {"nibble", "quantize", model, "-o", output, "--method", "int4-g32-asym", "--quiet"};
  std::vector<char*> argv;
  for (auto& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  EXPECT_EQ(posix_spawn(&child, NIBBLE_TOOL, nullptr, nullptr, argv.data(), environ), 0);
  std::this_thread::sleep_for(delay);
  ::kill(child, SIGINT);
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(Interrupt, LeavesAWholeOutputOrNone) {
  const TemporaryFolder folder;
  make_model(folder / "model");
  int stopped = 0;
  for (int trial = 0; trial < 12; ++trial) {
    const fs::path out = folder / "out";
    // From 4 ms, once the handler is there, on: the first trials are early in the work.
    const int status = interrupted_after(std::chrono::milliseconds(4 << (trial % 6)), folder / "model", out);
    if (status == 0) {
      EXPECT_TRUE(fs::exists(out / "model.safetensors"));
      EXPECT_EQ(SafetensorsFile(out / "model.safetensors").tensors().empty(), false);
      fs::remove_all(out);
    } else {
      EXPECT_TRUE(status == 130 || status == -SIGINT) << status;
      stopped += status == 130;
    }
    for (const auto& entry : fs::directory_iterator(folder.path())) EXPECT_EQ(entry.path().filename(), "model");
  }
  EXPECT_GT(stopped, 0);
}

/// What runs for long without asking ends all the same, and what it had begun to write goes.
TEST(Interrupt, EndsWorkThatDoesNotAsk) {
  const TemporaryFolder folder;
  const int status = exit_of([&] {
    install_interrupt_handler();
    const files::PendingFile file(folder / "file");
    const files::PendingDirectory directory(folder / "folder");
    std::ofstream(directory.path() / "inside") << "begun";
    std::raise(SIGINT);
    for (;;) pause();
  });
  EXPECT_EQ(status, kInterruptedExit);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Interrupt, TheSecondEndsAtOnce) {
  const int status = exit_of([] {
    install_interrupt_handler();
    std::raise(SIGINT);
    std::raise(SIGINT);
  });
  EXPECT_EQ(status, -1) << "killed by the signal";
}

}  // namespace
}  // namespace nibble::cli
