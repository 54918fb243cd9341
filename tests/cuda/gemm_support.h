// What the tests of the tensor-core products share: packed weights on the device, and the comparison with exact sums.
#pragma once

#include <cmath>

#include "backend/cuda/layout.h"
#include "kernels/cuda/gemm_w4a16.h"
#include "tests/cuda/support.h"

namespace nibble::cuda_test {

/// 4-bit weights on the device.
class DeviceW4 {
 public:
  explicit DeviceW4(const QuantizedMatrix& q)
      : host_(cuda::pack_w4(q)),
        codes_(host_.codes),
        scales_(host_.scales),
        zero_points_(host_.zero_points),
        codebook_(host_.codebook) {}
  [[nodiscard]] cuda::PackedW4 view() const {
    return {host_.rows,
            host_.cols,
            host_.spec.is_codebook(),
            codes_.get(),
            host_.group,
            scales_.get(),
            host_.scale_type,
            host_.zero_points.empty() ? nullptr : zero_points_.get(),
            host_.codebook.empty() ? nullptr : codebook_.get()};
  }
  [[nodiscard]] const cuda::HostW4& host() const { return host_; }

 private:
  cuda::HostW4 host_;
  DeviceArray<std::uint32_t> codes_;
  Bytes scales_, zero_points_;
  DeviceArray<float> codebook_;
};

/// What rounding to T adds: half of the last bit of a normal value, or of the least one that there is.
template <class T>
double rounding(double value) {
  if constexpr (std::is_same_v<T, f16>) return std::max(std::abs(value) * 0x1p-11, 0x1p-25);
  else if constexpr (std::is_same_v<T, bf16>) return std::abs(value) * 0x1p-8;
  else return 0;  // the sum is in fp32 already
}

}  // namespace nibble::cuda_test
