#include "core/of_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace nibble {
namespace {

std::atomic<int> alive{0};

struct Counted {
  Counted() { ++alive; }
  ~Counted() { --alive; }
  int value = 0;
};

TEST(OfThread, EachThreadHasItsOwnUntilItsEnd) {
  of_thread<Counted>().value = 7;
  std::thread([] {
    EXPECT_EQ(of_thread<Counted>().value, 0);
    of_thread<Counted>().value = 8;
    EXPECT_EQ(of_thread<Counted>().value, 8);
    EXPECT_EQ(alive, 2);
  }).join();
  EXPECT_EQ(alive, 1);
  EXPECT_EQ(of_thread<Counted>().value, 7);
}

struct Other : Counted {};

TEST(OfThread, TypesDoNotShare) {
  of_thread<Counted>().value = 1;
  of_thread<Other>().value = 2;
  EXPECT_EQ(of_thread<Counted>().value, 1);
}

}  // namespace
}  // namespace nibble
