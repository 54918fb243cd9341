#include "nibble/core/progress.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace nibble {
namespace {

TEST(Progress, AnEmptyOneIsSilence) { EXPECT_NO_THROW(report({}, 0.5, "working")); }

TEST(Progress, ANoBecomesAnErrorThatSaysDuringWhat) {
  double seen = 0;
  const Progress progress = [&](double fraction, std::string_view) {
    seen = fraction;
    return fraction < 0.5;
  };
  report(progress, 0.25, "packing");
  EXPECT_EQ(seen, 0.25);
  testing_support::expect_error(ErrorCode::cancelled, "cancelled during: packing",
                                [&] { report(progress, 0.75, "packing"); });
}

}  // namespace
}  // namespace nibble
