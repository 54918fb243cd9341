// The 8-bit Adam of nibble/cuda/adam8.h on a device: its steps are those of train/adam8.h, and its
// state is kept.
#include "nibble/cuda/adam8.h"

#include <cmath>

#include "tests/cuda/backend_support.h"
#include "tests/support/expect_error.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;
using cuda::Adam8;
using cuda::Adam8Moments;

/// One step of the definition, on the host.
void step_by_definition(const AdamOptions& options, std::vector<float>& parameters, const std::vector<float>& gradients,
                        Adam8Moments& moments) {
  const AdamStep step = adam_step(options, ++moments.steps);
  for (std::size_t b = 0; b < moments.m_absmax.size(); ++b) {
    const std::size_t first = b * kAdam8Block, count = std::min(kAdam8Block, parameters.size() - first);
    adam8_block(step, count, gradients.data() + first, moments.m_codes.data() + first, moments.m_absmax[b],
                moments.v_codes.data() + first, moments.v_absmax[b], parameters.data() + first);
  }
}

Adam8Moments before_the_first_step(std::size_t n) {
  const std::size_t blocks = (n + kAdam8Block - 1) / kAdam8Block;
  return {0, std::vector<std::uint8_t>(n), std::vector<std::uint8_t>(n), std::vector<float>(blocks),
          std::vector<float>(blocks)};
}

void expect_equal(const Adam8Moments& a, const Adam8Moments& b) {
  EXPECT_EQ(a.steps, b.steps);
  EXPECT_EQ(a.m_codes, b.m_codes);
  EXPECT_EQ(a.v_codes, b.v_codes);
  EXPECT_EQ(a.m_absmax, b.m_absmax);
  EXPECT_EQ(a.v_absmax, b.v_absmax);
}

constexpr std::size_t kRows = 12, kCols = 50, kCount = kRows * kCols;

TEST(CudaAdam8Optimizer, StepsAsTheDefinitionAndGoesOnWhereItWasSaved) {
  power_on();
  const cuda::Context context;
  auto expected = normal(kCount, 1);
  const DeviceArray<float> parameters(expected);
  const cuda::MutableDeviceMatrix view{parameters.get(), DType::f32, kRows, kCols, kCols};
  AdamOptions options;
  Adam8Moments moments = before_the_first_step(kCount);
  const Stream stream;
  Adam8 adam(context, kCount, options, stream.get());
  for (int t = 0; t < 5; ++t) {
    if (t == 2) {
      // A schedule changes the rate, and the state travels through host memory.
      options.learning_rate = 0.03;
      options.weight_decay = 0.01;
      Adam8 resumed(context, adam.download(stream.get()), options, stream.get());
      adam = std::move(resumed);
    }
    const auto gradients = normal(kCount, static_cast<unsigned>(2 + t), 0.1f);
    const DeviceArray<float> on_device(gradients);
    expect_asynchronous(stream.get(), [&] {
      adam.step(view, {on_device.get(), DType::f32, kRows, kCols, kCols}, stream.get());
    });
    step_by_definition(options, expected, gradients, moments);
    ASSERT_EQ(parameters.host(), expected) << "step " << t;
    expect_equal(adam.download(stream.get()), moments);
  }
  EXPECT_EQ(adam.steps(), 5);
  expect_clean();
}

TEST(CudaAdam8Optimizer, RefusesWhatDoesNotFit) {
  power_on();
  const cuda::Context context;
  const DeviceArray<float> values(normal(kCount, 9));
  const cuda::MutableDeviceMatrix view{values.get(), DType::f32, kRows, kCols, kCols};
  Adam8 adam(context, kCount, {}, nullptr);
  cuda::MutableDeviceMatrix wrong = view;
  wrong.rows = kRows - 1;
  expect_error(ErrorCode::shape_mismatch, "gradients F32 [11, 50]", [&] { adam.step(view, wrong, nullptr); });
  wrong = view;
  wrong.stride = kCols + 2;
  expect_error(ErrorCode::shape_mismatch, "rows 52 apart", [&] { adam.step(wrong, view, nullptr); });
  wrong = view;
  wrong.type = DType::bf16;
  expect_error(ErrorCode::unsupported, "gradients BF16", [&] { adam.step(view, wrong, nullptr); });
  EXPECT_EQ(adam.steps(), 0);
  AdamOptions options;
  options.beta2 = 1;
  expect_error(ErrorCode::invalid_argument, "beta2 is 1; it must be from 0 to below 1",
               [&] { adam.set_options(options); });
  options = {};
  options.learning_rate = NAN;
  expect_error(ErrorCode::invalid_argument, "learning_rate is nan", [&] { Adam8(context, kCount, options, nullptr); });
  expect_error(ErrorCode::invalid_argument, "no parameters", [&] { Adam8(context, 0, {}, nullptr); });
  Adam8Moments moments = before_the_first_step(300);
  moments.v_absmax.pop_back();
  expect_error(ErrorCode::shape_mismatch, "2 and 1 absmax values", [&] { Adam8(context, moments, {}, nullptr); });
  moments = before_the_first_step(300);
  moments.steps = -1;
  expect_error(ErrorCode::invalid_argument, "-1 steps", [&] { Adam8(context, moments, {}, nullptr); });
  expect_clean();
}

}  // namespace
}  // namespace nibble
