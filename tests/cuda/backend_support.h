// What the tests of the CUDA backend's host code share: matrices of the CPU's, and exact products.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "nibble/cuda/device.h"
#include "tests/cuda/machine.h"

namespace nibble::cuda_test {

inline const Backend& backend() {
  cuda::register_backend();
  return find_backend("cuda");
}

inline bool equal(const Buffer& a, const Buffer& b) {
  return a.size() == b.size() && (a.size() == 0 || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

inline void expect_same(const QuantizedMatrix& a, const QuantizedMatrix& b, const std::string& name) {
  EXPECT_EQ(a.spec, b.spec) << name;
  EXPECT_TRUE(equal(a.codes, b.codes)) << name << ": codes";
  EXPECT_TRUE(equal(a.scales, b.scales)) << name << ": scales";
  EXPECT_TRUE(equal(a.zero_points, b.zero_points)) << name << ": zero points";
  EXPECT_EQ(a.codebook, b.codebook) << name;
  EXPECT_EQ(a.g_idx, b.g_idx) << name;
  EXPECT_EQ(a.nested.absmax, b.nested.absmax) << name;
  EXPECT_EQ(a.nested.map, b.nested.map) << name;
  EXPECT_EQ(a.nested.offset, b.nested.offset) << name;
}

inline QuantizedMatrix on_cpu(const std::vector<float>& w, std::size_t rows, std::size_t cols, const char* spec) {
  return find_backend("scalar").quantize(MatrixView<const float>(w.data(), rows, cols), QuantSpec::parse(spec), "w",
                                         serial_executor());
}

/// Columns in an order that spreads every group over the row.
inline QuantizedMatrix with_act_order(QuantizedMatrix q) {
  const auto groups = static_cast<std::int32_t>(q.spec.groups_per_row(q.cols));
  for (std::int32_t c = 0; c < static_cast<std::int32_t>(q.cols); ++c) q.g_idx.push_back(c % groups);
  q.validate("w");
  return q;
}

/// What cuda.h promises of Tier::blas, but for the rounding of weights.
inline double blas_bound(std::size_t depth, DType x_type) {
  const double n = static_cast<double>(depth);
  return (x_type == DType::f32 ? 1.01 * (n + 1) : 2.3 * (n + 16)) * 0x1p-24;
}

/// The weights that a product is made of.
struct Weights {
  std::size_t rows, cols;
  std::function<float(std::size_t, std::size_t)> value;
};

/// y [n, rows] against exact sums, within `relative`·Σ|x·w| + `rounding`·|y|.
template <class X, class Y>
void expect_product(const std::vector<X>& x, const Weights& w, const std::vector<Y>& y, std::size_t n, double relative,
                    double rounding, const std::string& name) {
  for (std::size_t t = 0; t < n; ++t)
    for (std::size_t r = 0; r < w.rows; ++r) {
      double exact = 0, size = 0;
      for (std::size_t c = 0; c < w.cols; ++c) {
        const double p =
            static_cast<double>(static_cast<float>(x[t * w.cols + c])) * static_cast<double>(w.value(r, c));
        exact += p;
        size += std::abs(p);
      }
      const double bound = relative * size;
      ASSERT_NEAR(static_cast<double>(static_cast<float>(y[t * w.rows + r])), exact,
                  bound + rounding * (std::abs(exact) + bound))
          << name << ": token " << t << " of " << n << ", row " << r;
    }
}

}  // namespace nibble::cuda_test
