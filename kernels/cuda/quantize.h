// Quantizing to the canonical form on the device: every scheme of QuantSpec, bit for bit what Backend::quantize gives.
//
// Two passes: fit (the range of each group, its scale and zero point) and encode; with double quantization two more
// over the absmax values. The weights are read twice; the second time they come from the second-level cache if they
// fit it. Ranges are minima and maxima, so the order in which parts of a large group meet never shows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/canonical.h"
#include "nibble/core/dtype.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// Where the first thing lies that cannot be quantized. On the device; quantize() resets it.
struct QuantizeStatus {
  /// 2^64−1 − (row·cols + column) of the first NaN or infinity in row-major order; 0 if all values are finite.
  unsigned long long non_finite;
  /// 2^64−1 − g of the first group whose scale does not fit its type; 0 if all do. Means nothing where a value was not
  /// finite.
  unsigned long long unfit_scale;
};
/// The place that a word of QuantizeStatus other than 0 tells of.
constexpr unsigned long long place_of(unsigned long long word) { return ~word; }

/// The buffers of a canonical matrix to be written; their sizes and layout are CanonicalMatrix's. Bytes of a row past
/// its codes are left alone. nested_*: with double quantization only. No codebook: the scheme's own is used.
struct CanonicalBuffers {
  std::uint8_t* codes = nullptr;
  std::size_t pitch = 0;
  void* scales = nullptr;
  void* zero_points = nullptr;
  float* nested_absmax = nullptr;
  float* nested_map = nullptr;
  float* nested_offset = nullptr;
};

/// Bytes of device memory, aligned to 16, that quantize() works in.
std::size_t quantize_workspace(const QuantSpec& spec, std::size_t rows, std::size_t cols);

/// Quantizes x [rows, cols] of `type` (f32, f16 or bf16), rows `stride` ≥ cols elements apart, by a valid spec. Where
/// `status` tells of something afterwards, what was written means nothing. Returns the cudaError_t of the launches.
int quantize(const void* x, DType type, std::size_t rows, std::size_t cols, std::size_t stride, const QuantSpec& spec,
             const CanonicalBuffers& to, void* workspace, QuantizeStatus* status, cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
