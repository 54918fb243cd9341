// A workspace, cut into pieces.
#pragma once

#include "kernels/cuda/gemm_layout.h"
#include "nibble/cuda/device.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// Cuts a workspace into pieces that are aligned to 256 bytes. Without one, it counts what it would need.
class Pieces {
 public:
  explicit Pieces(DeviceSpan workspace = {}) : workspace_(workspace) {}
  template <class T>
  T* take(std::size_t count) {
    std::byte* const piece = workspace_.data == nullptr ? nullptr : static_cast<std::byte*>(workspace_.data) + used_;
    used_ += round_up(count * sizeof(T), 256);
    return reinterpret_cast<T*>(piece);
  }
  [[nodiscard]] std::size_t used() const { return used_; }

 private:
  DeviceSpan workspace_;
  std::size_t used_ = 0;
};

}  // namespace nibble::inline NIBBLE_ABI::cuda
