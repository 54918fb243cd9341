// What a Matrix holds.
#pragma once

#include "backend/cuda/status.h"
#include "kernels/cuda/canonical.h"

namespace nibble::cuda {

/// Memory on the device, sized for one matrix.
struct Matrix::Storage {
  /// Of a valid spec and shape, nothing in it yet.
  static std::unique_ptr<Storage> quantized(const Context& context, const QuantSpec& spec, std::size_t rows,
                                            std::size_t cols, bool act_order, cudaStream_t stream);
  static std::unique_ptr<Storage> floats(const Context& context, DType type, std::size_t rows, std::size_t cols,
                                         cudaStream_t stream);

  [[nodiscard]] DeviceMatrix dense() const { return {codes.as<>(), type, view.rows, view.cols, view.cols}; }

  bool is_quantized = true;
  DType type = DType::f32;      ///< Of unquantized weights, which lie in `codes`.
  bool has_small_zeros = true;  ///< Every zero point is one that gemv() takes.
  DeviceBuffer codes, scales, zero_points, codebook, g_idx, nested_absmax, nested_map, nested_offset;
  CanonicalMatrix view;  ///< Of the buffers. Unquantized weights: rows and cols only.
};

/// Waits for a stream where a scope is left by an exception, so that no copy on it still reads what the scope's callers
/// own.
class WaitOnError {
 public:
  explicit WaitOnError(cudaStream_t stream) : stream_(stream) {}
  ~WaitOnError() {
    if (armed_ && cudaStreamSynchronize(stream_) != cudaSuccess) (void)cudaGetLastError();  // an error is on its way
  }
  WaitOnError(const WaitOnError&) = delete;
  WaitOnError& operator=(const WaitOnError&) = delete;
  /// The regular wait.
  void wait(std::string_view purpose) {
    armed_ = false;
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize", purpose);
  }

 private:
  cudaStream_t stream_;
  bool armed_ = true;
};

inline void check_kernel(int status, const char* kernel) {
  check(static_cast<cudaError_t>(status), "a kernel launch", kernel);
}

}  // namespace nibble::cuda
