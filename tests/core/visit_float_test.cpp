#include "nibble/core/visit_float.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace nibble {
namespace {

TEST(VisitFloat, GoesFromTheTypeToItsElements) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    EXPECT_TRUE(is_matrix_type(type));
    EXPECT_EQ(visit_float(type, []<class T>(T) { return sizeof(T); }), size_of(type));
  }
  for (const DType type : {DType::f64, DType::f8_e4m3, DType::i8}) EXPECT_FALSE(is_matrix_type(type));
}

// What 16 bits can hold comes back; other values are rounded once, ties to even.
TEST(VisitFloat, NarrowsToNearestAndWidensExactly) {
  const std::array<float, 5> exact{0.0f, -1.5f, 0.25f, 384.0f, -0.0078125f};
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    std::array<std::byte, 5 * sizeof(float)> stored{};
    std::array<float, 5> back{};
    downcast_floats(type, exact.data(), exact.size(), stored.data());
    upcast_floats(type, stored.data(), exact.size(), back.data());
    EXPECT_EQ(back, exact);
    EXPECT_EQ(float_at(type, stored.data(), 3), 384.0f);
  }
  const std::array<float, 3> between{1 + 0x1p-11f, 1 + 3 * 0x1p-11f, 1e6f};
  std::array<f16, 3> half{};
  downcast_floats(DType::f16, between.data(), 3, half.data());
  EXPECT_EQ(static_cast<float>(half[0]), 1.0f);
  EXPECT_EQ(static_cast<float>(half[1]), 1 + 0x1p-9f);
  EXPECT_TRUE(std::isinf(static_cast<float>(half[2])));
}

}  // namespace
}  // namespace nibble
