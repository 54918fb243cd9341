#include "nibble/backend/ops.h"

#include <gtest/gtest.h>

#include <vector>

#include "nibble/quantize/quantize.h"
#include "tests/support/backends.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr std::size_t kTokens = 3, kIn = 64, kOut = 40;

// The matrix knows who packed it, whichever backend is the default.
TEST(Ops, MatmulIsThatOfTheBackendThatPacked) {
  const auto w = normal(kOut * kIn, 1), x = normal(kTokens * kIn, 2);
  const QuantizedMatrix q = quantize(MatrixView<const float>(w.data(), kOut, kIn), "int4-g32-sym");
  for (const Backend* b : available()) {
    const PackedMatrixPtr packed = b->pack(q);
    EXPECT_EQ(&packed->backend(), b);
    EXPECT_EQ(packed->rows(), kOut);
    EXPECT_EQ(packed->cols(), kIn);
    EXPECT_GE(packed->storage_bytes(), kOut * kIn / 2);
    std::vector<float> y(kTokens * kOut), expected(kTokens * kOut);
    matmul(MatrixView<const float>(x.data(), kTokens, kIn), *packed, {y.data(), kTokens, kOut});
    b->matmul(MatrixView<const float>(x.data(), kTokens, kIn), *packed, {expected.data(), kTokens, kOut},
              serial_executor());
    EXPECT_EQ(y, expected) << b->name();
  }
}

// Activations of 16 bits are upcast, exactly.
TEST(Ops, HalvesGiveWhatTheirValuesGive) {
  const auto w = normal(kOut * kIn, 3), x = normal(kTokens * kIn, 4);
  const PackedMatrixPtr packed = default_backend().pack(quantize(MatrixView<const float>(w.data(), kOut, kIn), "nf4"));
  const auto check = [&]<class T>(T) {
    std::vector<T> halves;
    std::vector<float> values;
    for (const float v : x) {
      halves.emplace_back(v);
      values.push_back(static_cast<float>(halves.back()));
    }
    std::vector<float> y(kTokens * kOut), expected(kTokens * kOut);
    matmul(MatrixView<const T>(halves.data(), kTokens, kIn), *packed, {y.data(), kTokens, kOut});
    matmul(MatrixView<const float>(values.data(), kTokens, kIn), *packed, {expected.data(), kTokens, kOut});
    EXPECT_EQ(y, expected);
  };
  check(f16());
  check(bf16());
}

TEST(Ops, NameBothShapes) {
  const auto w = normal(kOut * kIn, 5);
  const PackedMatrixPtr packed = default_backend().pack(FloatMatrix(MatrixView<const float>(w.data(), kOut, kIn)));
  std::vector<float> x(kIn + 1), y(kOut);
  expect_error(ErrorCode::shape_mismatch, "64", [&] {
    matmul(MatrixView<const float>(x.data(), 1, kIn + 1), *packed, {y.data(), 1, kOut});
  });
}

}  // namespace
}  // namespace nibble
