// What a Matrix holds.
#pragma once

#include <iterator>

#include "backend/cuda/status.h"
#include "kernels/cuda/canonical.h"
#include "kernels/cuda/gemm_w4a16.h"
#include "kernels/cuda/gemm_w8a8.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// Codes in the order of the tensor-core kernels, of 4 or of 8 bits, and what those kernels need beside them.
struct TensorCoreCodes {
  DeviceBuffer codes;
  DeviceBuffer scales, zero_points, column_order, column_places;  ///< Of 4 bits: layout.h's HostW4.
  DeviceBuffer multipliers;                                       ///< Of 8 bits.
  PackedW4 w4;                                                    ///< Of the buffers; no rows for 8 bits.
  PackedInt8 int8;                                                ///< Likewise for 4.
  /// Blocks of gemm_w4a16 that the whole device runs at once, of f16 and of bf16 activations, for each of kW4Tiles; 0
  /// where it has no such kernel.
  unsigned blocks[2][std::size(kW4Tiles)] = {};

  [[nodiscard]] std::size_t bytes() const {
    return codes.size() + scales.size() + zero_points.size() + column_order.size() + column_places.size() +
           multipliers.size();
  }
};

/// Memory on the device, sized for one matrix.
struct Matrix::Storage {
  /// Of a valid spec and shape, nothing in it yet.
  static std::unique_ptr<Storage> quantized(const Context& context, const QuantSpec& spec, std::size_t rows,
                                            std::size_t cols, bool act_order, cudaStream_t stream,
                                            bool canonical_codes = true);
  static std::unique_ptr<Storage> floats(const Context& context, DType type, std::size_t rows, std::size_t cols,
                                         cudaStream_t stream);

  [[nodiscard]] DeviceMatrix dense() const { return {codes.as<>(), type, view.rows, view.cols, view.cols}; }

  bool is_quantized = true;
  DType type = DType::f32;      ///< Of unquantized weights, which lie in `codes`.
  bool has_small_zeros = true;  ///< Every zero point is one that gemv() takes.
  DeviceBuffer codes, scales, zero_points, codebook, g_idx, nested_absmax, nested_map, nested_offset;
  std::unique_ptr<TensorCoreCodes> tensor;  ///< Null if there are none; `codes` may be empty if there are.
  int device = 0;                           ///< That it lies on,
  int compute_capability = 0;               ///< and what it can do.
  CanonicalMatrix view;                     ///< Of the buffers. Unquantized weights: rows and cols only.
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

}  // namespace nibble::inline NIBBLE_ABI::cuda
