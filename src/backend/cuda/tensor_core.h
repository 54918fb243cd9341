// Weights and products of the tensor-core kernels (kernels/cuda/gemm_w4a16.h, gemm_w8a8.h).
#pragma once

#include <cstdint>

#include "backend/cuda/matrix.h"

namespace nibble::cuda {

/// Whether one of the kernels takes the matrix.
bool has_tensor_core_layout(const QuantizedMatrix& q);
/// Makes s.tensor of a matrix that has the layout, and has s.view read those codes where there are no others. Waits for
/// the stream.
void pack_tensor_core(const Context& context, const QuantizedMatrix& q, Matrix::Storage& s, cudaStream_t stream);
/// The canonical codes. Waits for the stream.
void unpack_tensor_core(const Matrix::Storage& s, QuantizedMatrix& q, cudaStream_t stream);

/// How gemm_w4a16 cuts a product of so many tokens; no blocks where it does not take it.
GemmPlan tensor_core_plan(const Matrix::Storage& s, std::size_t tokens, DType x_type);
std::size_t tensor_core_workspace(const Matrix::Storage& s, std::size_t tokens, DType x_type);
/// y = x · Wᵀ by gemm_w4a16; operands and workspace are checked.
void multiply_tensor_core(const Matrix::Storage& s, const DeviceMatrix& x, const MutableDeviceMatrix& y,
                          DeviceSpan workspace, cudaStream_t stream);

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

}  // namespace nibble::cuda
