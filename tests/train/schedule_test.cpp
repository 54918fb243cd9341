#include "nibble/train/schedule.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace nibble::train {
namespace {

using testing_support::expect_error;

Schedule of(Decay decay, std::size_t steps = 100, std::size_t warmup = 10, double floor = 0) {
  return {.steps = steps, .warmup_steps = warmup, .decay = decay, .floor = floor};
}

// The values are transformers 5.24's for 100 steps, 10 of them warm-up.
TEST(Schedule, GivesTheFactorsOfTransformers) {
  for (const Decay decay : {Decay::constant, Decay::linear, Decay::cosine}) {
    EXPECT_EQ(of(decay).factor(0), 0);
    EXPECT_EQ(of(decay).factor(5), 0.5);
    EXPECT_EQ(of(decay).factor(10), 1);
  }
  EXPECT_NEAR(of(Decay::linear).factor(55), 0.5, 1e-12);
  EXPECT_NEAR(of(Decay::linear).factor(99), 0.011111, 1e-6);
  EXPECT_NEAR(of(Decay::cosine).factor(55), 0.5, 1e-12);
  EXPECT_NEAR(of(Decay::cosine).factor(99), 0.000305, 1e-6);
  EXPECT_EQ(of(Decay::constant).factor(99), 1);
}

TEST(Schedule, EndsAtItsFloor) {
  EXPECT_NEAR(of(Decay::cosine, 100, 10, 0.1).factor(55), 0.55, 1e-12);
  for (const std::size_t step : {100u, 101u, 1000u}) {
    EXPECT_NEAR(of(Decay::cosine, 100, 10, 0.1).factor(step), 0.1, 1e-12);
    EXPECT_EQ(of(Decay::linear).factor(step), 0);
  }
}

TEST(Schedule, HasRunsWithoutWarmUpAndWithNothingElse) {
  EXPECT_EQ(of(Decay::cosine, 10, 0).factor(0), 1);
  EXPECT_EQ(of(Decay::linear, 1, 0).factor(0), 1);
  EXPECT_EQ(of(Decay::linear, 10, 10).factor(9), 0.9);
}

TEST(Schedule, RoundsAShareOfWarmUpUp) {
  EXPECT_EQ(warmup_steps_of(0.03, 100), 3);
  EXPECT_EQ(warmup_steps_of(0.03, 101), 4);
  EXPECT_EQ(warmup_steps_of(0, 100), 0);
  EXPECT_EQ(warmup_steps_of(1, 7), 7);
  expect_error(ErrorCode::invalid_argument, "0 to 1", [] { (void)warmup_steps_of(3, 100); });
}

TEST(Schedule, RefusesWhatIsNoRun) {
  expect_error(ErrorCode::invalid_argument, "warmup_steps is 11", [] { of(Decay::linear, 10, 11).validate(); });
  expect_error(ErrorCode::invalid_argument, "floor is", [] { of(Decay::linear, 10, 1, 1.5).validate(); });
  of(Decay::linear, 10, 10, 1).validate();
}

TEST(Schedule, DecaysHaveNames) {
  for (const Decay decay : {Decay::constant, Decay::linear, Decay::cosine})
    EXPECT_EQ(parse_decay(name_of(decay)), decay);
  expect_error(ErrorCode::invalid_argument, "constant, linear, cosine", [] { (void)parse_decay("exponential"); });
}

}  // namespace
}  // namespace nibble::train
