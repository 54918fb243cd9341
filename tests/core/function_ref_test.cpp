#include "nibble/core/function_ref.h"

#include <gtest/gtest.h>

#include <memory>

namespace nibble {
namespace {

static_assert(sizeof(FunctionRef<void()>) == 2 * sizeof(void*));
static_assert(!std::is_constructible_v<FunctionRef<int(int)>, int (*)(std::string)>);

int call(FunctionRef<int(int)> f, int x) { return f(x); }
int twice(int x) { return 2 * x; }

TEST(FunctionRef, CallsWhatItRefersTo) {
  int calls = 0;
  auto counting = [&](int x) { return ++calls, x + 1; };
  EXPECT_EQ(call(counting, 4), 5);
  EXPECT_EQ(call(counting, 5), 6);
  EXPECT_EQ(calls, 2);  // no copy
  const auto pointer = &twice;
  EXPECT_EQ(call(pointer, 4), 8);
  EXPECT_EQ(call(twice, 4), 8);
  const auto constant = [](int x) { return static_cast<short>(-x); };  // another result, which converts
  EXPECT_EQ(call(constant, 4), -4);
}

TEST(FunctionRef, HandsArgumentsOnAsTheyAre) {
  const FunctionRef<int(std::unique_ptr<int>)> take = [](std::unique_ptr<int> p) { return *p; };
  EXPECT_EQ(take(std::make_unique<int>(7)), 7);
  int value = 1;
  const FunctionRef<void(int&)> change = [](int& x) { x = 9; };
  change(value);
  EXPECT_EQ(value, 9);
}

}  // namespace
}  // namespace nibble
