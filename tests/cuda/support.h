// What the tests of the CUDA kernels share: arrays on the device, and every thread order that the emulation knows. The
// same tests run on the emulated machine and, built with NIBBLE_TEST_ON_GPU, on a real one.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "kernels/cuda/canonical.h"
#include "nibble/backend/backend.h"
#include "nibble/quantize/quantize.h"
#include "tests/cuda/thread_orders.h"
#include "tests/support/random_data.h"

namespace nibble::cuda_test {

inline void require(int status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(static_cast<cudaError_t>(status)));
}

/// An array on the device, exactly as long as said. Filled with NaN bits unless made of values.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t n) : DeviceArray(nullptr, n) {}
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.data(), values.size()) {}
  DeviceArray(const T* values, std::size_t n) : n_(n) {
    const std::vector<unsigned char> poison(values == nullptr ? n * sizeof(T) : 0, 0xff);
    const void* from = values == nullptr ? static_cast<const void*>(poison.data()) : values;
    require(cudaMalloc(&data_, n_ * sizeof(T) + (n_ == 0)), "cudaMalloc");
    if (n > 0) require(cudaMemcpy(data_, from, n * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
    require(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // streams that do not block would not wait for the copy
  }
  ~DeviceArray() { (void)cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  [[nodiscard]] T* get() const { return static_cast<T*>(data_); }
  [[nodiscard]] std::size_t size() const { return n_; }
  /// Waits for the device.
  [[nodiscard]] std::vector<T> host() const {
    std::vector<T> out(n_);
    require(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    if (n_ > 0) require(cudaMemcpy(out.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return out;
  }

 private:
  void* data_ = nullptr;
  std::size_t n_;
};

using Bytes = DeviceArray<std::uint8_t>;

/// A canonical matrix on the device, rows of codes at multiples of `row_alignment` bytes. What lies between is 0xff.
class DeviceCanonical {
 public:
  explicit DeviceCanonical(const QuantizedMatrix& q, std::size_t row_alignment = 1)
      : pitch_((q.row_bytes() + row_alignment - 1) / row_alignment * row_alignment),
        codes_(spread(q, pitch_)),
        scales_(q.scales.as<std::uint8_t>(), q.scales.size()),
        zero_points_(q.zero_points.as<std::uint8_t>(), q.zero_points.size()),
        codebook_(q.codebook),
        nested_absmax_(q.nested.absmax),
        nested_map_(q.nested.map),
        nested_offset_(std::vector<float>{q.nested.offset}),
        g_idx_(q.g_idx) {
    view_.spec = q.spec;
    view_.rows = q.rows;
    view_.cols = q.cols;
    view_.pitch = pitch_;
    view_.codes = codes_.get();
    view_.scales = scales_.get();
    view_.zero_points = zero_points_.get();
    view_.codebook = codebook_.get();
    view_.nested_absmax = nested_absmax_.get();
    view_.nested_map = nested_map_.get();
    view_.nested_offset = nested_offset_.get();
    if (!q.g_idx.empty()) view_.g_idx = g_idx_.get();
  }
  [[nodiscard]] const cuda::CanonicalMatrix& view() const { return view_; }

 private:
  static std::vector<std::uint8_t> spread(const QuantizedMatrix& q, std::size_t pitch) {
    std::vector<std::uint8_t> out(q.rows * pitch, 0xff);
    for (std::size_t r = 0; r < q.rows; ++r) std::memcpy(out.data() + r * pitch, q.row_codes(r), q.row_bytes());
    return out;
  }
  std::size_t pitch_;
  Bytes codes_, scales_, zero_points_;
  DeviceArray<float> codebook_, nested_absmax_, nested_map_, nested_offset_;
  DeviceArray<std::int32_t> g_idx_;
  cuda::CanonicalMatrix view_;
};

/// Values in another float type.
template <class T>
std::vector<T> converted(const std::vector<float>& values) {
  std::vector<T> out;
  for (const float v : values) out.push_back(T(v));
  return out;
}
template <class T>
inline constexpr DType element_type = DType::f32;
template <>
inline constexpr DType element_type<f16> = DType::f16;
template <>
inline constexpr DType element_type<bf16> = DType::bf16;

/// Every kind of spec: each width of codes and each way to share scales, of each scheme.
inline std::vector<std::string> every_spec() {
  std::vector<std::string> out{"nf4-b64",    "nf4-b7",        "nf4-b4096",      "fp4-b64",
                               "fp4-b33",    "dynamic8-b256", "dynamic8-b10",   "llm-int8",
                               "nf4-b64-dq", "fp4-b16-dq",    "dynamic8-b32-dq"};
  for (int bits = 2; bits <= 8; ++bits)
    for (const char* where : {"tensor", "channel", "g128", "g32", "g7", "b50"})
      for (const char* how : {"sym-f32", "sym-restricted", "sym-bf16", "asym", "asymraw-f32", "asym-bf16"})
        out.push_back("int" + std::to_string(bits) + "-" + where + "-" + how);
  return out;
}

}  // namespace nibble::cuda_test
