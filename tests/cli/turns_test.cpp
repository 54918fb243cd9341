#include "cli/turns.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace nibble::cli {
namespace {

TEST(Turns, OneAloneSeesNobodyElse) {
  Turns turns;
  std::atomic<int> together = 0, alone = 0, wrong = 0;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        turns.together([&] {
          ++together;
          if (alone != 0) ++wrong;
          std::this_thread::yield();
          --together;
        });
        turns.alone([&] {
          if (++alone != 1 || together != 0) ++wrong;
          std::this_thread::yield();
          --alone;
        });
      }
    });
  threads.clear();
  EXPECT_EQ(wrong, 0);
}

TEST(Turns, WorkTogetherMeets) {
  Turns turns;
  std::atomic<int> inside = 0;
  const auto meet = [&] {
    turns.together([&] {
      ++inside;
      while (inside < 2) std::this_thread::yield();  // forever, if one had to wait for the other
    });
  };
  std::jthread other(meet);
  meet();
  EXPECT_EQ(inside, 2);
}

TEST(Turns, ATurnThatThrowsIsOver) {
  Turns turns;
  EXPECT_THROW(turns.alone([] { throw std::runtime_error("no"); }), std::runtime_error);
  EXPECT_THROW(turns.together([] { throw std::runtime_error("no"); }), std::runtime_error);
  bool ran = false;
  turns.alone([&] { ran = true; });
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace nibble::cli
