// GPTQ on the emulated device: the kernel against a plain loop, bit for bit; the whole against the CPU's solver.
#include <cmath>

#include "kernels/cuda/gptq_update.h"
#include "nibble/scheme/affine.h"
#include "nibble/solver/gptq_cuda.h"
#include "tests/cuda/support.h"
#include "tests/support/expect_error.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;
namespace machine = cuda_emulation;

/// What gptq_update.h says, for one row of the matrix, positions in order of solving.
struct PlainRow {
  std::vector<float> w;
  std::vector<std::uint8_t> codes;
  std::vector<float> errors;
  std::vector<AffineParams> params;
  double loss = 0;

  template <class U>
  void solve(const cuda::GptqStep& s, const U& u) {
    for (std::size_t i = s.begin; i < s.end; ++i) {
      if (i % s.group_size == 0) {
        const std::size_t last = std::min(i + s.group_size, s.cols);
        const Range r = range_of(std::span<const float>(w.data() + i, last - i));
        params.push_back(s.symmetric ? fit_symmetric(r, s.bits, SymmetricRange::full, s.scale_type)
                                     : fit_asymmetric(r, s.bits, true, s.scale_type));
      }
      const AffineParams p = params.back();
      const float zero = static_cast<float>(p.zero_point), top = static_cast<float>((1 << s.bits) - 1);
      const std::int32_t q = round_half_even(std::min(std::max(w[i] / p.scale, -zero), top - zero));
      const float e = (w[i] - static_cast<float>(q) * p.scale) / u(i, i);
      codes.push_back(static_cast<std::uint8_t>(q + p.zero_point));
      errors.push_back(e);
      loss += static_cast<double>(e) * static_cast<double>(e);
      for (std::size_t j = i + 1; j < s.end; ++j) {
        const float product = e * u(i, j);
        w[j] = w[j] - product;
      }
    }
  }
};

void check_update(std::size_t rows, std::size_t cols, std::vector<std::size_t> ends, cuda::GptqStep step) {
  step.rows = rows;
  step.cols = cols;
  const auto values = normal(rows * cols, 31);
  auto factor = normal(cols * cols, 32, 0.1f);
  const auto u = [&](std::size_t i, std::size_t j) -> float& { return factor[(cols - 1 - i) * cols + cols - 1 - j]; };
  for (std::size_t i = 0; i < cols; ++i) u(i, i) = 1 + std::abs(u(i, i));
  const std::size_t groups = (cols + step.group_size - 1) / step.group_size;
  const DeviceArray<float> w(values), inverse(factor), scales(groups * rows), errors(256 * rows);
  const DeviceArray<std::uint8_t> codes(cols * rows);
  const DeviceArray<std::int32_t> zeros(groups * rows);
  const DeviceArray<double> losses(std::vector<double>(rows, 0.0));
  std::vector<PlainRow> plain(rows);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t i = 0; i < cols; ++i) plain[r].w.push_back(values[(cols - 1 - i) * rows + r]);
  for (const std::size_t end : ends) {
    step.end = end;
    require(cuda::gptq_update(
                step, {w.get(), inverse.get(), codes.get(), scales.get(), zeros.get(), errors.get(), losses.get()},
                nullptr),
            "gptq_update");
    for (PlainRow& row : plain) row.solve(step, u);
    const auto e = errors.host();
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t i = step.begin; i < end; ++i)
        ASSERT_EQ(e[(end - 1 - i) * rows + r], plain[r].errors[i]) << "row " << r << ", position " << i;
    step.begin = end;
  }
  const auto c = codes.host();
  const auto s = scales.host();
  const auto z = zeros.host();
  const auto l = losses.host();
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t i = 0; i < cols; ++i) ASSERT_EQ(c[(cols - 1 - i) * rows + r], plain[r].codes[i]);
    for (std::size_t g = 0; g < groups; ++g) {
      ASSERT_EQ(s[g * rows + r], plain[r].params[g].scale);
      ASSERT_EQ(z[g * rows + r], plain[r].params[g].zero_point);
    }
    ASSERT_NEAR(l[r], plain[r].loss, 1e-12 * plain[r].loss);  // the order of adding up steps
  }
}

TEST(CudaGptq, UpdatesABlockAsDefined) {
  for_each_order([&] {
    ASSERT_NO_FATAL_FAILURE(check_update(3, 20, {8, 16, 20}, {.group_size = 8}));
    ASSERT_NO_FATAL_FAILURE(
        check_update(70, 13, {13}, {.group_size = 5, .bits = 3, .symmetric = false, .scale_type = ScaleType::f32}));
    ASSERT_NO_FATAL_FAILURE(check_update(65, 24, {8, 16, 24}, {.group_size = 24, .bits = 8, .symmetric = false}));
  });
}

TEST(CudaGptq, RefusesAStepThatIsNone) {
  EXPECT_NE(cuda::gptq_update({.rows = 1, .cols = 4, .begin = 2, .end = 2, .group_size = 4}, {}, nullptr), cudaSuccess);
  EXPECT_NE(cuda::gptq_update({.rows = 1, .cols = 600, .begin = 0, .end = 257, .group_size = 4}, {}, nullptr),
            cudaSuccess);
}

/// Activations whose channels hang together and differ in size: channel c mixes three normal sources.
std::vector<float> activations(std::size_t tokens, std::size_t channels, unsigned seed) {
  const auto noise = normal(tokens * channels, seed);
  std::vector<float> x(noise.size());
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t c = 0; c < channels; ++c)
      x[t * channels + c] = (noise[t * channels + c] + 0.8f * noise[t * channels + c / 3] +
                             0.5f * noise[t * channels + (c * 7) % channels]) *
                            (1 + static_cast<float>(c % 5));
  return x;
}

TEST(CudaGptq, SumsTheHessianAsTheCpu) {
  machine::power_on({13000, {machine::a100()}});
  {
    const cuda::Context context;
    const auto x = activations(30, 12, 33);
    const DeviceArray<float> device(x);
    cuda::DeviceHessian h(context, 12, "up", nullptr);
    h.add({device.get(), DType::f32, 20, 12, 12}, nullptr);
    h.add({device.get() + 20 * 12, DType::f32, 10, 12, 12}, nullptr);
    const Hessian actual = h.download(nullptr);
    Hessian expected(12, "up");
    expected.add(MatrixView<const float>(x.data(), 30, 12));
    EXPECT_EQ(actual.tokens(), 30u);
    for (std::size_t i = 0; i < 12; ++i)
      for (std::size_t j = 0; j <= i; ++j) {
        double size = 0;
        for (std::size_t t = 0; t < 30; ++t) size += static_cast<double>(std::abs(x[t * 12 + i] * x[t * 12 + j]));
        EXPECT_NEAR(actual.sum(i, j), expected.sum(i, j), 2 * 30 * 0x1p-24 * size);  // both round
      }
    expect_error(ErrorCode::unsupported, "'up' are F16", [&] {
      h.add({device.get(), DType::f16, 1, 12, 12}, nullptr);
    });
  }
  EXPECT_EQ(machine::leaks(), "");
  EXPECT_EQ(machine::faults(), "");
}

TEST(CudaGptq, SolvesAsTheCpu) {
  machine::power_on({13000, {machine::a100()}});
  const std::size_t rows = 20, cols = 160;
  const auto w = normal(rows * cols, 34);
  const MatrixView<const float> weights(w.data(), rows, cols);
  Hessian h(cols, "q_proj");
  auto x = activations(400, cols, 35);
  for (std::size_t t = 0; t < 400; ++t) x[t * cols + 17] = 0;  // a dead channel
  h.add(MatrixView<const float>(x.data(), 400, cols));
  {
    const cuda::Context context;
    const gptq::Options cases[] = {{.bits = 4, .group_size = 32},
                                   {.bits = 3, .group_size = 48, .symmetric = false, .act_order = true},
                                   {.bits = 4, .group_size = 160, .symmetric = false},
                                   {.bits = 8, .group_size = 7, .scale_type = ScaleType::f32}};
    for (const gptq::Options& o : cases) {
      const auto expected = gptq::solve(weights, h, o);
      const auto actual = cuda::gptq_solve(context, weights, h, o, nullptr);
      std::size_t same = 0;
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < cols; ++c) same += actual.matrix.code(r, c) == expected.matrix.code(r, c);
      EXPECT_GE(static_cast<double>(same), 0.99 * static_cast<double>(rows * cols)) << o.group_size;
      EXPECT_EQ(actual.matrix.g_idx, expected.matrix.g_idx);
      EXPECT_EQ(actual.report.dead_channels, expected.report.dead_channels);
      EXPECT_NEAR(actual.report.loss, expected.report.loss, 0.01 * expected.report.loss) << o.group_size;
      EXPECT_NEAR(gptq::layer_loss(weights, actual.matrix, h), gptq::layer_loss(weights, expected.matrix, h),
                  0.01 * expected.report.loss);
    }
    expect_error(ErrorCode::unsupported, "gptq of 'matrix' on the device: static_groups",
                 [&] { (void)cuda::gptq_solve(context, weights, h, {.static_groups = true}, nullptr); });
    expect_error(ErrorCode::shape_mismatch, "the Hessian 'other' has 4 channels", [&] {
      Hessian other(4, "other");
      other.add(MatrixView<const float>(x.data(), 4, 4));
      (void)cuda::gptq_solve(context, weights, other, {}, nullptr);
    });
  }
  EXPECT_EQ(machine::leaks(), "");
  EXPECT_EQ(machine::faults(), "");
}

TEST(CudaGptq, RaisesTheDampWhereItMust) {
  machine::power_on({13000, {machine::a100()}});
  const auto w = normal(4 * 48, 36), x = activations(2, 48, 37);  // two tokens: singular without damping
  Hessian h(48, "q_proj");
  h.add(MatrixView<const float>(x.data(), 2, 48));
  const cuda::Context context;
  const auto out =
      cuda::gptq_solve(context, MatrixView<const float>(w.data(), 4, 48), h, {.group_size = 16, .damp = 0}, nullptr);
  EXPECT_GT(out.report.damp, 0);
  ASSERT_EQ(out.report.recovery.size(), 1u);
  EXPECT_NE(out.report.recovery[0].find("damp raised"), std::string::npos);
}

}  // namespace
}  // namespace nibble
