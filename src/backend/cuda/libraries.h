// The cuBLAS and cuSOLVER handles of a Context.
#pragma once

#include <mutex>

#include "backend/cuda/status.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// A handle has one stream and one workspace at a time, so its user holds the lock from setting them to the last call.
class Context::Libraries {
 public:
  /// Of the current device. Makes cuBLAS's handle, which takes memory of the device's; cuSOLVER's when it is first
  /// asked for.
  Libraries();
  ~Libraries();
  Libraries(const Libraries&) = delete;
  Libraries& operator=(const Libraries&) = delete;

  /// A library's handle, set to a stream, and the right to use it.
  template <class Handle>
  struct Held {
    Handle handle;
    std::unique_lock<std::mutex> lock;
  };

  /// Sums are fp32 and products are not rounded to TF32. cuBLAS works in `workspace` and never allocates; it wants none
  /// for its plainest kernels, kBlasWorkspace for all of them.
  [[nodiscard]] Held<cublasHandle_t> blas(cudaStream_t stream, DeviceSpan workspace);
  [[nodiscard]] Held<cusolverDnHandle_t> solver(cudaStream_t stream);

 private:
  std::mutex blas_mutex_, solver_mutex_;
  cublasHandle_t blas_ = nullptr;
  cusolverDnHandle_t solver_ = nullptr;
};

/// What cuBLAS recommends for compute capability 9.0; earlier ones need less.
inline constexpr std::size_t kBlasWorkspace = std::size_t{32} << 20;

/// A float type by cuBLAS's name.
inline cudaDataType blas_type(DType type) {
  return type == DType::f16 ? CUDA_R_16F : type == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

/// cuBLAS and cuSOLVER count in int; callers have checked that what they count fits.
inline int narrow(std::size_t n) { return static_cast<int>(n); }

}  // namespace nibble::inline NIBBLE_ABI::cuda
