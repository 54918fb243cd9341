// The dequantize kernels against the CPU's, bit for bit.
#include "kernels/cuda/dequantize.h"

#include <cmath>

#include "backend/cuda/layout.h"
#include "tests/cuda/support.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

/// A NaN's bits are the device's: it keeps nothing of the operand's.
template <class T>
bool same_bits(const T& a, const T& b) {
  if (std::isnan(static_cast<float>(a)) && std::isnan(static_cast<float>(b))) return true;
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

template <class T>
std::vector<T> decoded_by_cpu(const QuantizedMatrix& q, std::size_t first) {
  std::vector<T> out((q.rows - first) * q.cols);
  default_backend().dequantize_to(q, first, MatrixView(out.data(), q.rows - first, q.cols), serial_executor());
  return out;
}

/// By the definition of a value, for those that the CPU's backends refuse to give: the device gives what rounding
/// gives.
template <class T>
std::vector<T> decoded_by_definition(const QuantizedMatrix& q) {
  std::vector<T> out;
  for (std::size_t r = 0; r < q.rows; ++r)
    for (std::size_t c = 0; c < q.cols; ++c) out.push_back(T(q.value(r, c)));
  return out;
}

/// Decodes rows first … q.rows−1 to rows `stride` apart, and compares; what lies between rows must not be written.
template <class T>
void check(const QuantizedMatrix& q, const cuda::CanonicalMatrix& device, std::size_t first, std::size_t stride,
           const std::string& name, const std::vector<T>& expected) {
  const std::size_t rows = q.rows - first;
  DeviceArray<T> out(rows * stride);
  const std::vector<T> untouched = out.host();
  require(cuda::dequantize(device, first, out.get(), element_type<T>, rows, stride, nullptr), "dequantize");
  const std::vector<T> actual = out.host();
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < q.cols; ++c)
      ASSERT_TRUE(same_bits(actual[r * stride + c], expected[r * q.cols + c]))
          << name << " at " << r << ", " << c << ": " << static_cast<float>(actual[r * stride + c]) << " for "
          << static_cast<float>(expected[r * q.cols + c]);
    for (std::size_t c = q.cols; c < stride; ++c)
      ASSERT_TRUE(same_bits(actual[r * stride + c], untouched[r * stride + c])) << name << ": written past row " << r;
  }
}

template <class T>
void check(const QuantizedMatrix& q, const cuda::CanonicalMatrix& device, std::size_t first, std::size_t stride,
           const std::string& name) {
  check<T>(q, device, first, stride, name, decoded_by_cpu<T>(q, first));
}

TEST(CudaDequantize, EqualsTheCpuForEverySpec) {
  const struct { std::size_t rows, cols; } shapes[] = {{3, 131}, {9, 272}, {1, 1}};
  for_each_order([&] {
    for (const auto& text : every_spec())
      for (const auto& s : shapes) {
        const auto x = normal(s.rows * s.cols, 1);
        const auto q = quantize(MatrixView<const float>(x.data(), s.rows, s.cols), text);
        const DeviceCanonical device(q);
        ASSERT_NO_FATAL_FAILURE(check<float>(q, device.view(), 0, s.cols, text));
        ASSERT_NO_FATAL_FAILURE(check<f16>(q, device.view(), 0, s.cols, text));
        ASSERT_NO_FATAL_FAILURE(check<bf16>(q, device.view(), 0, s.cols, text));
      }
  });
}

TEST(CudaDequantize, TakesPartsStridesAndPitches) {
  const auto x = normal(11 * 100, 2);
  for_each_order([&] {
    for (const char* text : {"int4-g32-asym", "int3-g7-sym", "nf4-b64-dq", "int8", "int2-channel-asymraw-f32"}) {
      const auto q = quantize(MatrixView<const float>(x.data(), 11, 100), text);
      const DeviceCanonical device(q, 16);
      for (const std::size_t first : {std::size_t{0}, std::size_t{5}, std::size_t{10}}) {
        ASSERT_NO_FATAL_FAILURE(check<float>(q, device.view(), first, 107, text));
        ASSERT_NO_FATAL_FAILURE(check<f16>(q, device.view(), first, 104, text));
        ASSERT_NO_FATAL_FAILURE(check<bf16>(q, device.view(), first, 101, text));
      }
    }
  });
}

TEST(CudaDequantize, FollowsActOrderGroups) {
  const auto x = normal(5 * 96, 3);
  auto q = quantize(MatrixView<const float>(x.data(), 5, 96), "int4-g16-asym");
  for (std::int32_t c = 0; c < 96; ++c) q.g_idx.push_back(c * 7 % 6);
  q.validate("w");
  const DeviceCanonical device(q);
  for_each_order([&] {
    ASSERT_NO_FATAL_FAILURE(check<float>(q, device.view(), 0, 96, "g_idx"));
    ASSERT_NO_FATAL_FAILURE(check<f16>(q, device.view(), 1, 96, "g_idx"));
  });
}

/// `places` is empty without act-order.
void check_order(const QuantizedMatrix& q, const std::vector<std::uint32_t>& codes,
                 const std::vector<std::int32_t>& places, const std::string& name) {
  const DeviceCanonical device(q);
  const DeviceArray<std::uint32_t> words(codes);
  const DeviceArray<std::int32_t> columns(places);
  auto view = device.view();
  view.codes = nullptr;
  view.tensor_codes = words.get();
  if (!places.empty()) view.tensor_places = columns.get();
  ASSERT_NO_FATAL_FAILURE(check<float>(q, view, 1, q.cols, name));
  ASSERT_NO_FATAL_FAILURE(check<f16>(q, view, 0, q.cols + 3, name));
  ASSERT_NO_FATAL_FAILURE(check<bf16>(q, view, 2, q.cols, name));
}

TEST(CudaDequantize, ReadsCodesInTheOrderOfTensorCores) {
  for_each_order([&] {
    for (const char* text : {"int4-g32-asym", "int4-channel-sym", "nf4-b64-dq", "int4-g32-sym", "int8", "llm-int8"}) {
      auto q = quantize(MatrixView<const float>(normal(131 * 192, 5).data(), 131, 192), text);
      if (std::string(text) == "int4-g32-sym")
        for (std::int32_t c = 0; c < 192; ++c) q.g_idx.push_back(c * 7 % 6);
      if (q.spec.bits == 8) {
        ASSERT_NO_FATAL_FAILURE(check_order(q, cuda::pack_int8(q).codes, {}, text));
        continue;
      }
      const cuda::HostW4 packed = cuda::pack_w4(q);
      ASSERT_NO_FATAL_FAILURE(check_order(q, packed.codes, packed.column_places(), text));
    }
  });
}

/// Denormals, overflow of the result type, infinities and NaN, as a file could hold them.
TEST(CudaDequantize, RoundsWhatAFileCouldHold) {
  const auto x = normal(7 * 77, 4, 3e-5f);
  for (const char* text : {"nf4-b11", "int4-channel-asym-f32", "int8-g7-sym-f32", "int3-g16-asym-f32"}) {
    auto q = quantize(MatrixView<const float>(x.data(), 7, 77), text);
    const float hard[] = {std::nanf("123"), 1e38f, INFINITY, 1e-42f, -3e4f, 0.0f, -0.0f};
    for (std::size_t g = 0; g < 7; ++g) q.scales.writable<float>()[g] = hard[g];
    const DeviceCanonical device(q);
    ASSERT_NO_FATAL_FAILURE(check<float>(q, device.view(), 0, 77, text, decoded_by_definition<float>(q)));
    ASSERT_NO_FATAL_FAILURE(check<f16>(q, device.view(), 0, 77, text, decoded_by_definition<f16>(q)));
    ASSERT_NO_FATAL_FAILURE(check<bf16>(q, device.view(), 0, 77, text, decoded_by_definition<bf16>(q)));
  }
}

TEST(CudaDequantize, RefusesWhatItHasNoKernelFor) {
  const auto q = QuantizedMatrix::allocate(QuantSpec::parse("int4-g32-asym"), 2, 32);
  const DeviceCanonical device(q);
  DeviceArray<float> out(64);
  EXPECT_NE(cuda::dequantize(device.view(), 0, out.get(), DType::i32, 2, 32, nullptr), cudaSuccess);
  EXPECT_EQ(cuda::dequantize(device.view(), 0, out.get(), DType::f32, 0, 32, nullptr), cudaSuccess);
  auto without_codes = device.view();
  without_codes.codes = nullptr;
  EXPECT_NE(cuda::dequantize(without_codes, 0, out.get(), DType::f32, 2, 32, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace nibble
