// The quantize kernels against the CPU's: codes, scales, zero points and nested statistics, bit for bit.
#include "kernels/cuda/quantize.h"

#include <cmath>

#include "tests/cuda/support.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

/// One quantization on the device.
class OnDevice {
 public:
  OnDevice(const QuantSpec& spec, std::size_t rows, std::size_t cols)
      : spec_(spec),
        rows_(rows),
        cols_(cols),
        like_(QuantizedMatrix::allocate(spec, rows, cols)),
        codes_(like_.codes.size()),
        scales_(like_.scales.size()),
        zero_points_(like_.zero_points.size()),
        nested_absmax_(spec.double_quant ? (like_.group_count() + 255) / 256 : 0),
        nested_map_(spec.double_quant ? 256 : 0),
        nested_offset_(1),
        workspace_(cuda::quantize_workspace(spec, rows, cols)),
        status_(1) {}

  void run(const void* x, DType type, std::size_t stride) {
    const cuda::CanonicalBuffers to{codes_.get(),         like_.row_bytes(), scales_.get(),       zero_points_.get(),
                                    nested_absmax_.get(), nested_map_.get(), nested_offset_.get()};
    require(cuda::quantize(x, type, rows_, cols_, stride, spec_, to, workspace_.get(), status_.get(), nullptr),
            "quantize");
  }
  [[nodiscard]] cuda::QuantizeStatus status() const { return status_.host()[0]; }

  void expect_equal(const QuantizedMatrix& q, const std::string& name) const {
    const auto equal = [](const Bytes& device, const Buffer& host) {
      const std::vector<std::uint8_t> bytes = device.host();
      return bytes.size() == host.size() &&
             (bytes.empty() || std::memcmp(bytes.data(), host.data(), bytes.size()) == 0);
    };
    ASSERT_EQ(status().non_finite, 0u) << name;
    ASSERT_EQ(status().unfit_scale, 0u) << name;
    ASSERT_TRUE(equal(scales_, q.scales)) << name << ": scales";
    ASSERT_TRUE(equal(zero_points_, q.zero_points)) << name << ": zero points";
    ASSERT_TRUE(equal(codes_, q.codes)) << name << ": codes";
    if (!spec_.double_quant) return;
    ASSERT_EQ(nested_offset_.host()[0], q.nested.offset) << name;
    ASSERT_EQ(nested_absmax_.host(), q.nested.absmax) << name;
    ASSERT_EQ(nested_map_.host(), q.nested.map) << name;
  }

 private:
  QuantSpec spec_;
  std::size_t rows_, cols_;
  QuantizedMatrix like_;
  Bytes codes_, scales_, zero_points_;
  DeviceArray<float> nested_absmax_, nested_map_, nested_offset_;
  Bytes workspace_;
  DeviceArray<cuda::QuantizeStatus> status_;
};

/// Quantizes values of type T, rows `stride` apart, on the device and on the CPU.
template <class T>
void check(const std::string& text, const std::vector<float>& values, std::size_t rows, std::size_t cols,
           std::size_t stride) {
  std::vector<T> x(rows * stride, T(NAN));  // what lies between rows must not be read
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) x[r * stride + c] = T(values[r * cols + c]);
  const QuantSpec spec = QuantSpec::parse(text);
  const auto q =
      default_backend().quantize(MatrixView<const T>(x.data(), rows, cols, stride), spec, "w", serial_executor());
  const DeviceArray<T> device(x);
  OnDevice job(spec, rows, cols);
  job.run(device.get(), element_type<T>, stride);
  job.expect_equal(q, text + ", " + std::to_string(rows) + " × " + std::to_string(cols));
}

/// Scales that the type holds: values whose extremes no fp16 scale could take are for the other types.
bool takes_any_value(const std::string& text) { return QuantSpec::parse(text).scale_type != ScaleType::f16; }

/// Each spec meets each kind of data under some order, and each order all specs and kinds.
TEST(CudaQuantize, EqualsTheCpuForEverySpecOnHardData) {
  const struct { std::size_t rows, cols; } shapes[] = {{3, 131}, {5, 64}, {1, 1}};
  std::size_t turn = 0;
  for_each_order([&] {
    std::size_t kind = 2 * turn++;
    for (const auto& text : every_spec())
      for (const auto& s : shapes) {
        const std::size_t n = s.rows * s.cols;
        const std::vector<float> data[] = {normal(n, 1),    ties(n, 2),       std::vector<float>(n, 0.0f),
                                           denormals(n, 3), any_finite(n, 4), std::vector<float>(n, -0.7f)};
        for (int i = 0; i < 2; ++i, ++kind)
          if (kind % 6 != 4 || takes_any_value(text))
            ASSERT_NO_FATAL_FAILURE(check<float>(text, data[kind % 6], s.rows, s.cols, s.cols));
      }
  });
}

TEST(CudaQuantize, TakesHalvesAndStrides) {
  const auto x = normal(7 * 88, 5);
  for_each_order([&] {
    for (const char* text : {"int4-g32-asym", "int3-g7-sym", "int5-b50-asym", "int8", "int8-tensor-sym", "nf4-b64-dq",
                             "fp4-b33", "dynamic8-b10", "llm-int8"})
      for (const std::size_t stride : {88u, 96u, 91u}) {
        ASSERT_NO_FATAL_FAILURE(check<float>(text, x, 7, 88, stride));
        ASSERT_NO_FATAL_FAILURE(check<f16>(text, x, 7, 88, stride));
        ASSERT_NO_FATAL_FAILURE(check<bf16>(text, x, 7, 88, stride));
      }
  });
}

/// Groups longer than one warp reads: their parts meet in any order.
TEST(CudaQuantize, JoinsThePartsOfLargeGroups) {
  const auto x = normal(3 * 5003, 6);
  for_each_order([&] {
    for (const char* text :
         {"int8-tensor-asym", "int4-tensor-sym", "int4-channel-asymraw-f32", "llm-int8", "nf4-b9000"})
      ASSERT_NO_FATAL_FAILURE(check<float>(text, x, 3, 5003, 5003));
    ASSERT_NO_FATAL_FAILURE(check<f16>("int8-channel-asym", x, 3, 5003, 5003));
    ASSERT_NO_FATAL_FAILURE(check<bf16>("int8-channel-asym", x, 3, 5003, 5003));
  });
}

/// More than one block of absmax values; their mean is exact in any order, or (values of all sizes) in theirs only.
TEST(CudaQuantize, QuantizesManyAbsmaxValues) {
  constexpr std::size_t rows = 40, cols = 131;
  for_each_order([&] {
    for (const char* text : {"fp4-b16-dq", "nf4-b8-dq", "dynamic8-b32-dq"})
      for (const auto& data :
           {normal(rows * cols, 7), any_finite(rows * cols, 8), std::vector<float>(rows * cols, 0.0f)})
        ASSERT_NO_FATAL_FAILURE(check<float>(text, data, rows, cols, cols));
  });
}

TEST(CudaQuantize, ReportsTheFirstPlaceThatIsNotFinite) {
  for_each_order([&] {
    for (const char* text : {"int4-g32-asym", "nf4-b64", "int8-tensor-sym", "llm-int8"})
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        auto x = normal(9 * 100, 9);
        for (const std::size_t at : {431u, 432u, 437u, 899u}) x[at] = bad;
        const DeviceArray<float> device(x);
        OnDevice job(QuantSpec::parse(text), 9, 100);
        job.run(device.get(), DType::f32, 100);
        ASSERT_NE(job.status().non_finite, 0u) << text;
        ASSERT_EQ(cuda::place_of(job.status().non_finite), 431u) << text;
      }
  });
}

TEST(CudaQuantize, ReportsTheFirstScaleThatDoesNotFit) {
  auto x = normal(4 * 64, 10);
  x[2 * 64 + 40] = 1e30f;  // row 2's second group of 32
  x[3 * 64] = 1e30f;
  const DeviceArray<float> device(x);
  for_each_order([&] {
    OnDevice job(QuantSpec::parse("int4-g32-sym"), 4, 64);
    job.run(device.get(), DType::f32, 64);
    ASSERT_EQ(job.status().non_finite, 0u);
    ASSERT_NE(job.status().unfit_scale, 0u);
    ASSERT_EQ(cuda::place_of(job.status().unfit_scale), 5u);
  });
}

}  // namespace
}  // namespace nibble
