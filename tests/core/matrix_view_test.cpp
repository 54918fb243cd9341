#include "nibble/core/matrix_view.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "tests/support/expect_error.h"

namespace nibble {
namespace {

using testing_support::expect_error;

TEST(MatrixView, RowsAreAStrideApart) {
  float values[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const MatrixView<float> m(values, 3, 2, 4);
  EXPECT_EQ(m(2, 1), 9);
  EXPECT_EQ(m.row(1)[0], 4);
  EXPECT_EQ(m.row(1).size(), 2u);
  const MatrixView<const float> below = m.row_range(1, 2);
  EXPECT_EQ(below.rows, 2u);
  EXPECT_EQ(below(1, 0), 8);
  EXPECT_EQ(FloatMatrix(m)(2, 1), 9);
}

TEST(FloatMatrix, ReadsItsElementsAsTheirType) {
  const f16 half[] = {f16(1.5f), f16(-2.0f)};
  const bf16 brain[] = {bf16(3.0f), bf16(0.25f)};
  EXPECT_EQ(FloatMatrix(MatrixView<const f16>(half, 2, 1))(1, 0), -2.0f);
  EXPECT_EQ(FloatMatrix(MatrixView<const bf16>(brain, 1, 2))(0, 1), 0.25f);
}

// Every public call asks this of what it is handed.
TEST(MatrixView, IsRefusedWhereItCannotBeWalked) {
  float values[8] = {};
  expect_error(ErrorCode::invalid_argument, "'x' is 2 × 3 elements at no address",
               [] { MatrixView<float>(nullptr, 2, 3).validate("x"); });
  expect_error(ErrorCode::shape_mismatch, "with rows 2 apart; a row's stride is at least its columns",
               [&] { MatrixView<float>(values, 2, 3, 2).validate("x"); });
  const std::size_t huge = SIZE_MAX / 4;
  expect_error(ErrorCode::invalid_argument, "more than memory can hold",
               [&] { MatrixView<float>(values, 3, huge).validate("x"); });
  expect_error(ErrorCode::invalid_argument, "more than memory can hold",
               [&] { FloatMatrix(values, DType::f16, huge, 2, huge).validate("x"); });
  expect_error(ErrorCode::unsupported, "'x' is I8", [&] { FloatMatrix(values, DType::i8, 1, 2, 2).validate("x"); });
  EXPECT_NO_THROW(MatrixView<float>(nullptr, 0, 3).validate("x"));
  EXPECT_NO_THROW(MatrixView<float>(values, 2, 4).validate("x"));
}

}  // namespace
}  // namespace nibble
