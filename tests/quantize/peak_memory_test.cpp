#include <gtest/gtest.h>

#include "nibble/quantize/quantize.h"
#include "tests/support/peak_memory.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

TEST(PeakMemory, QuantizingHoldsLittleBesideItsInputAndOutput) {
  if (!memory_is_measurable) GTEST_SUCCEED() << "not measured under a sanitizer";
  const auto w = normal(4096 * 4096, 1);
  const std::size_t before = held_bytes() - w.size() * 4;
  reset_peak();
  const auto q = quantize(MatrixView<const float>(w.data(), 4096, 4096), "nf4");
  const std::size_t peak = peak_bytes() - before;
  const double ratio = static_cast<double>(peak) / static_cast<double>(w.size() * 4 + q.storage_bytes());
  RecordProperty("ratio", std::to_string(ratio));
  std::printf("peak over input + output: %.3f\n", ratio);
  if (memory_is_measurable) EXPECT_LT(ratio, 1.3);
}

}  // namespace
}  // namespace nibble
