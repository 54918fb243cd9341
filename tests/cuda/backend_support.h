// What the tests of the CUDA backend's host code share: an emulated machine, exact products, and calls that fail.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "nibble/backend/cuda.h"
#include "tests/cuda/support.h"

namespace nibble::cuda_test {

namespace machine = cuda_emulation;

inline void power_on() { machine::power_on({13000, {machine::a100()}}); }

inline const Backend& backend() {
  cuda::register_backend();
  return find_backend("cuda");
}

inline void expect_clean() { EXPECT_EQ(machine::faults(), ""); }

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

/// Makes each call of the runtime that `body` makes fail in turn. Every failure must be told, and leave nothing behind,
/// but for `tidying` waits: those of streams about to be destroyed, whose work was waited for before.
inline void fail_every_call(const std::string& name, int tidying, const std::function<void()>& body) {
  body();
  const std::string held = machine::leaks();
  const std::size_t before = machine::calls();
  body();
  const std::size_t calls = machine::calls() - before;
  ASSERT_GT(calls, 3u) << name;
  for (std::size_t k = 0; k < calls; ++k) {
    machine::fail_once(k);
    bool told = false;
    try {
      body();
    } catch (const Error& e) {
      told = true;
      EXPECT_TRUE(e.code() == ErrorCode::device || e.code() == ErrorCode::unsupported) << e.what();
      EXPECT_NE(std::string(e.what()).find(' '), std::string::npos);
    }
    ASSERT_NE(machine::failed_call(), "") << name << ": call " << k << " was not made";
    if (!told) {
      EXPECT_EQ(machine::failed_call(), "cudaStreamSynchronize") << name << ": call " << k << " failed silently";
      --tidying;
    }
    EXPECT_EQ(machine::leaks(), held) << name << ": " << machine::failed_call() << ", call " << k;
    EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess) << name << ": " << machine::failed_call();
    ASSERT_EQ(machine::faults(), "") << name << ": " << machine::failed_call() << ", call " << k;
  }
  EXPECT_EQ(tidying, 0) << name;
  body();
}

}  // namespace nibble::cuda_test
