// Every allocation may fail. The n-th one of a command is refused, for many n (for all of them in the soak test): the
// command must end in a message about memory and exit status 1, leave nothing behind, and a run resumed afterwards must
// give the bytes of an undisturbed one.
//
// malloc itself is replaced in this program, so that what libraries ask for is counted too. Each run is a child
// process.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <new>

#include "cli/tool.h"
#include "nibble/format/gguf.h"
#include "tests/support/run_tool.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_model.h"

namespace {

/// How many more allocations succeed; below zero: all do, and they are counted downwards.
std::atomic<long> allocations_left{-1};
std::atomic<bool> counting{false};

bool refused() {
  if (!counting.load(std::memory_order_relaxed)) return false;
  if (allocations_left.fetch_sub(1, std::memory_order_relaxed) != 0) return false;
  errno = ENOMEM;
  return true;
}

}  // namespace

extern "C" {
void* __libc_malloc(std::size_t) noexcept;
void* __libc_calloc(std::size_t, std::size_t) noexcept;
void* __libc_realloc(void*, std::size_t) noexcept;
void* __libc_memalign(std::size_t, std::size_t) noexcept;

void* malloc(std::size_t bytes) noexcept { return refused() ? nullptr : __libc_malloc(bytes); }
void* calloc(std::size_t count, std::size_t bytes) noexcept {
  return refused() ? nullptr : __libc_calloc(count, bytes);
}
void* realloc(void* old, std::size_t bytes) noexcept { return refused() ? nullptr : __libc_realloc(old, bytes); }
void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {
  return refused() ? nullptr : __libc_memalign(alignment, bytes);
}
int posix_memalign(void** out, std::size_t alignment, std::size_t bytes) noexcept {
  *out = refused() ? nullptr : __libc_memalign(alignment, bytes);
  return *out == nullptr ? ENOMEM : 0;
}
}

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
using testing_support::has;
using testing_support::TemporaryFolder;

using Contents = std::map<std::string, std::string>;

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Every file below a folder, by its path in it; the one file, for a file.
Contents contents(const fs::path& path) {
  Contents out;
  if (fs::is_regular_file(path)) out[""] = bytes_of(path);
  if (fs::is_directory(path))
    for (const auto& entry : fs::recursive_directory_iterator(path))
      if (entry.is_regular_file()) out[fs::relative(entry.path(), path)] = bytes_of(entry.path());
  return out;
}

struct Ending {
  int status = 0;  ///< Of the exit, or minus the signal.
  long allocations = 0;
  std::string text;
};

/// One command in a child, its n-th allocation refused (from 0; none below that).
Ending run_refusing(long n, const std::vector<std::string>& arguments, const fs::path& log) {
  auto* shared =
      static_cast<long*>(::mmap(nullptr, sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    const int file = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::dup2(file, STDOUT_FILENO);
    ::dup2(file, STDERR_FILENO);
    std::vector<std::string> words{"nibble"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (auto& a : words) argv.push_back(a.data());
    argv.push_back(nullptr);
    prepare_process();
    ::alarm(120);  // what hangs is killed, and seen
    const long begin = n < 0 ? 1L << 60 : n;
    allocations_left.store(begin);
    counting.store(true);
    const int status = run_tool(static_cast<int>(words.size()), argv.data());
    counting.store(false);
    *shared = begin - allocations_left.load();
    std::fflush(nullptr);
    ::_exit(status);
  }
  Ending out;
  int status = 0;
  ::waitpid(child, &status, 0);
  out.status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  out.allocations = *shared;
  out.text = bytes_of(log);
  ::munmap(shared, sizeof(long));
  return out;
}

struct Command {
  const char* name;
  std::vector<std::string> arguments;  ///< IN and OUT stand for the model and the output.
  const char* input;                   ///< Of the folders that the fixture makes.
  bool resumes = false;
};

class EveryAllocation : public testing::TestWithParam<Command> {
 protected:
  static void SetUpTestSuite() {
    ::setenv("NIBBLE_THREADS", "2", 1);
    folder_ = std::make_unique<TemporaryFolder>();
    testing_support::write_tiny_model(*folder_ / "dense");
    std::ofstream(*folder_ / "text.txt") << std::string(400, 'a') + std::string(400, 'b');
    const std::string out = *folder_ / "int4", in = *folder_ / "dense";
    ASSERT_EQ(run_refusing(-1, {"quantize", in, "-o", out, "--method", "int4-g32-sym"}, *folder_ / "log").status, 0);
  }
  static void TearDownTestSuite() { folder_.reset(); }

  std::vector<std::string> arguments(const fs::path& out) const {
    std::vector<std::string> words = GetParam().arguments;
    for (auto& w : words) {
      if (w == "IN") w = *folder_ / GetParam().input;
      if (w == "OUT") w = out;
      if (w == "TEXT") w = *folder_ / "text.txt";
    }
    return words;
  }
  static std::unique_ptr<TemporaryFolder> folder_;
};
std::unique_ptr<TemporaryFolder> EveryAllocation::folder_;

/// What of a resumable run may stay: what it goes on with.
bool is_finished_work(const Contents& partial) {
  for (const auto& [name, bytes] : partial)
    if (name != "lock" && name != "manifest.json" && !(name.starts_with("block-") && name.ends_with(".safetensors")))
      return false;
  return true;
}

TEST_P(EveryAllocation, MayFail) {
  const fs::path place = *folder_ / GetParam().name, log = *folder_ / "log";
  fs::create_directory(place);
  const fs::path out = place / "out", partial = place / "out.partial";
  const Ending whole = run_refusing(-1, arguments(out), log);
  ASSERT_EQ(whole.status, 0) << whole.text;
  const Contents expected = contents(out);
  ASSERT_FALSE(expected.empty());
  fs::remove_all(out);

  const auto wanted = [](const char* name, long otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr ? std::atol(text) : otherwise;
  };
  const long step = wanted("NIBBLE_FAULT_STEP", std::max(1L, whole.allocations / 40));
  long refusals = 0, unharmed = 0;
  // Each of the last: there the output has got its name, and what is left to do may not fail any more.
  const long last = whole.allocations - 60;
  const auto next = [&](long n) { return n < last ? std::min(n + step, last) : n + 1; };
  for (long n = wanted("NIBBLE_FAULT_FIRST", 0); n < whole.allocations && !HasFailure(); n = next(n), ++refusals) {
    SCOPED_TRACE("allocation " + std::to_string(n) + " of " + std::to_string(whole.allocations));
    const Ending e = run_refusing(n, arguments(out), log);
    if (e.status == 0) {  // something that can be done without, a thread say; or one more than there were
      EXPECT_EQ(contents(out), expected);
      ++unharmed;
    } else {
      EXPECT_EQ(e.status, 1) << e.text;
      EXPECT_TRUE(has(e.text, "nibble: ")) << e.text;
      EXPECT_TRUE(has(e.text, "memory")) << e.text;
      if (fs::exists(out)) {
        EXPECT_EQ(contents(out), expected) << "the output is there, and whole";
      }
    }
    if (GetParam().resumes && !fs::exists(out)) {
      EXPECT_TRUE(is_finished_work(contents(partial)));
      const Ending again = run_refusing(-1, arguments(out), log);
      EXPECT_EQ(again.status, 0) << again.text;
      EXPECT_EQ(contents(out), expected) << "resumed";
    }
    fs::remove_all(out);
    EXPECT_TRUE(fs::is_empty(place)) << [&] {
      std::string left = "status " + std::to_string(e.status) + ", " + e.text + ", and left:";
      for (const auto& entry : fs::recursive_directory_iterator(place)) left += " " + entry.path().string();
      return left;
    }();
    fs::remove_all(partial);
  }
  std::printf("%ld allocations, %ld refused, %ld of them to no harm\n", whole.allocations, refusals, unharmed);
}

INSTANTIATE_TEST_SUITE_P(
    Commands, EveryAllocation,
    testing::Values(Command{"quantize", {"quantize", "IN", "-o", "OUT", "--method", "nf4"}, "dense"},
                    Command{"convert", {"convert", "IN", "OUT", "--to", "compressed-tensors", "--allow-loss"}, "int4"},
                    Command{"export_gguf", {"export-gguf", "IN", "OUT", "--type", "Q8_0"}, "dense"},
                    Command{"imatrix",
                            {"imatrix", "IN", "-o", "OUT", "--calibration", "TEXT", "--samples", "2", "--sample-tokens",
                             "16"},
                            "dense"},
                    Command{"gptq",
                            {"quantize", "IN", "-o", "OUT", "--method", "gptq-4-g32", "--calibration", "TEXT",
                             "--samples", "2", "--sample-tokens", "16", "--quiet", "--resume"},
                            "dense",
                            true},
                    Command{"export_gguf_gptq",
                            {"export-gguf", "IN", "OUT", "--type", "q4_0", "--gptq", "--calibration", "TEXT",
                             "--samples", "2", "--sample-tokens", "16", "--quiet", "--resume"},
                            "dense",
                            true}),
    [](const auto& p) { return std::string(p.param.name); });

/// The kind of a find of the soak: a variant that is copied when memory ends.
TEST(GgufMetadata, ACopyThatMemoryEndsInLeavesNothing) {
  const std::vector<std::string> names{std::string(40, 'a'), std::string(50, 'b')};
  const GgufMetadata from{{"names", names}, {"pairs", std::vector<GgufArray>{names, names}}};
  long refusals = 0;
  for (bool whole = false; !whole; ++refusals) {
    GgufMetadata to;
    allocations_left.store(refusals);
    counting.store(true);
    try {
      to = from;
      whole = true;
    } catch (const std::bad_alloc&) {
    }
    counting.store(false);
    if (whole) EXPECT_EQ(to, from);
    ASSERT_LT(refusals, 1000);
  }
  EXPECT_GT(refusals, 10) << "each string, each array and each node can fail";
}

/// A size limit or a full disk is an error like any other, not a signal.
TEST(FullDisk, TheLimitOfAFilesSizeIsAnError) {
  const TemporaryFolder folder;
  testing_support::write_tiny_model(folder / "in");
  const auto outcome =
      testing_support::run("quantize " + (folder / "in").string() + " -o " + (folder / "out").string(), "ulimit -f 8;");
  EXPECT_EQ(outcome.status, 1) << outcome.text;
  EXPECT_TRUE(has(outcome.text, "File too large")) << outcome.text;
  fs::remove_all(folder / "in");
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

}  // namespace
}  // namespace nibble::cli
