// KernelTable::transpose, which attention and the transposed product are built on.
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "nibble/backend/impl/cpu_kernels.h"

namespace nibble {
namespace {

TEST(Transpose, TurnsEveryShapeAndTouchesNothingElse) {
  for (const Backend* backend : backends()) {
    if (!backend->available()) continue;
    const kernels::KernelTable& isa = kernels_of(backend);
    for (const std::size_t rows : {1u, 3u, 8u, 15u, 16u, 17u, 33u})
      for (const std::size_t cols : {1u, 4u, 7u, 16u, 31u, 32u, 50u}) {
        const std::size_t x_stride = cols + 3, out_stride = rows + 5;
        std::vector<float> x(rows * x_stride), out(cols * out_stride, -1), expected = out;
        std::iota(x.begin(), x.end(), 0.0f);
        for (std::size_t r = 0; r < rows; ++r)
          for (std::size_t c = 0; c < cols; ++c) expected[c * out_stride + r] = x[r * x_stride + c];
        isa.transpose(x.data(), x_stride, rows, cols, out.data(), out_stride);
        EXPECT_EQ(out, expected) << backend->name() << " " << rows << " × " << cols;
      }
  }
}

}  // namespace
}  // namespace nibble
