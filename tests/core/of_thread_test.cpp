#include "nibble/core/impl/of_thread.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <atomic>
#include <cstdlib>
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

/// Ends, as the default executor's threads do, while objects of static lifetime are destroyed.
struct EndsAtExit {
  EndsAtExit() {
    thread = std::thread([this] {
      of_thread<Counted>().value = 1;
      ready = true;
      ready.notify_all();
      stop.wait(false);
    });
    ready.wait(false);
  }
  ~EndsAtExit() {
    stop = true;
    stop.notify_all();
    thread.join();
    if (alive != 0) ::_exit(1);
  }
  std::atomic<bool> ready{false}, stop{false};
  std::thread thread;
};

TEST(OfThreadDeathTest, AThreadOfAStaticPoolTakesItsObjectAlong) {
  EXPECT_EXIT(
      {
        alive = 0;
        static const EndsAtExit pool;
        std::exit(0);
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace nibble
