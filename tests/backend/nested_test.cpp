// Products asked for where others are under way: in tasks, in children of fork(), on a thread that waits.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "nibble/quantize/quantize.h"
#include "tests/support/child.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

const int threads_are_set = ::setenv("NIBBLE_THREADS", "4", 1);

constexpr std::size_t kOut = 192, kIn = 256;

/// One matrix, one input and what their product is, alone.
struct Case {
  PackedMatrixPtr w;
  std::vector<float> x, expected;
  std::size_t tokens;

  Case(const char* spec, std::size_t n, unsigned seed) : x(normal(n * kIn, seed)), expected(n * kOut), tokens(n) {
    const auto weights = normal(kOut * kIn, seed + 100);
    w = default_backend().pack(quantize(MatrixView<const float>(weights.data(), kOut, kIn), spec));
    matmul(MatrixView<const float>(x.data(), n, kIn), *w, {expected.data(), n, kOut}, serial_executor());
  }
  [[nodiscard]] bool holds_on(Executor& executor) const {
    std::vector<float> y(expected.size());
    matmul(MatrixView<const float>(x.data(), tokens, kIn), *w, {y.data(), tokens, kOut}, executor);
    return y == expected;
  }
};

std::vector<Case> cases() {
  std::vector<Case> out;
  unsigned seed = 1;
  for (const char* spec : {"int4-g128-sym", "nf4", "llm-int8", "int8"})
    for (const std::size_t tokens : {1u, 24u}) out.emplace_back(spec, tokens, seed++);
  return out;
}

TEST(NestedMatmul, InTasksOfTheSameExecutor) {
  const auto all = cases();
  std::atomic<int> right{0};
  default_executor().run(64, [&](std::size_t i) { right += all[i % all.size()].holds_on(default_executor()); });
  parallel_for(default_executor(), 64, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) right += all[i % all.size()].holds_on(default_executor());
  });
  EXPECT_EQ(right, 128);
}

TEST(NestedMatmul, FromTwoThreadsAtOnce) {
  const auto all = cases();
  std::atomic<int> right{0};
  const auto work = [&] {
    for (std::size_t i = 0; i < 80; ++i) right += all[i % all.size()].holds_on(default_executor());
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT_EQ(right, 160);
}

TEST(NestedMatmul, InAChildOfFork) {
  const auto all = cases();
  ASSERT_TRUE(all[1].holds_on(default_executor()));
  testing_support::start_all_threads();
  EXPECT_EQ(exit_of([&] {
              bool right = true;
              for (const Case& c : all) right = right && c.holds_on(default_executor());
              std::exit(right ? 0 : 1);
            }),
            0);
}

/// A pool whose waiting thread takes up other work before each task, as work-stealing pools do.
class HelpingExecutor final : public Executor {
 public:
  std::function<void()> other;
  int concurrency() const noexcept override { return 2; }
  void run(std::size_t count, FunctionRef<void(std::size_t)> task) override {
    for (std::size_t i = 0; i < count; ++i) {
      if (other) other();
      task(i);
    }
  }
};

TEST(NestedMatmul, OnAThreadThatWaitsForAnother) {
  const auto all = cases();
  for (const Case& outer : all)
    for (const Case& inner : all) {
      HelpingExecutor executor;
      bool right = true;
      executor.other = [&] { right = right && inner.holds_on(serial_executor()); };
      EXPECT_TRUE(outer.holds_on(executor));
      EXPECT_TRUE(right);
    }
}

TEST(NestedMatmul, KeepsTheWidenedActivationsOfTheCallThatWaits) {
  const Case outer("int4-g128-sym", 3, 50), inner("nf4", 7, 60);
  const auto narrow = [](const std::vector<float>& x) {
    std::vector<bf16> out;
    for (const float v : x) out.emplace_back(v);
    return out;
  };
  const auto x = narrow(outer.x), y = narrow(inner.x);
  std::vector<float> expected(outer.expected.size()), got(expected.size()), other(inner.expected.size());
  const auto product = [&](Executor& executor, std::vector<float>& to) {
    matmul(MatrixView<const bf16>(x.data(), outer.tokens, kIn), *outer.w, {to.data(), outer.tokens, kOut}, executor);
  };
  product(serial_executor(), expected);
  HelpingExecutor executor;
  executor.other = [&] {
    matmul(MatrixView<const bf16>(y.data(), inner.tokens, kIn), *inner.w, {other.data(), inner.tokens, kOut},
           serial_executor());
  };
  product(executor, got);
  EXPECT_EQ(got, expected);
}

}  // namespace
}  // namespace nibble
