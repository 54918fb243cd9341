// Weights laid out for the tensor-core kernels, on the host, and back: what pack() uploads. The places are
// kernels/cuda/gemm_layout.h's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/gemm_layout.h"
#include "nibble/matrix/quantized_matrix.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// The buffers of kernels/cuda/gemm_w4a16.h's PackedW4, and what unpacks them.
struct HostW4 {
  QuantSpec spec;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t group = 0;  ///< Columns that share parameters: 32, 64, …
  std::vector<std::uint32_t> codes;
  ScaleType scale_type = ScaleType::f16;  ///< Double-quantized scales become fp32.
  std::vector<std::uint8_t> scales;       ///< [rows of parameters][padded rows] of scale_type; the padding's are 0.
  std::vector<std::uint8_t> zero_points;  ///< Asymmetric only.
  std::vector<float> codebook;            ///< Codebook schemes only: 16 values.
  /// Act-order: column k here is column column_order[k] of the matrix, and so must be that of the activations. Columns
  /// of a group are neighbours then. Empty: the matrix's own order.
  std::vector<std::int32_t> column_order;

  [[nodiscard]] PackedLayout layout() const { return {rows, cols, spec.is_codebook()}; }
  /// column_order turned round: where each column of the matrix lies. Empty likewise.
  [[nodiscard]] std::vector<std::int32_t> column_places() const;
  /// Code, scale and zero point of an element of the canonical matrix.
  [[nodiscard]] std::uint8_t code(std::size_t row, std::size_t col) const;
  [[nodiscard]] float scale(std::size_t row, std::size_t packed_col) const;
  [[nodiscard]] std::int32_t zero_point(std::size_t row, std::size_t packed_col) const;
};

/// Why the kernel for 4-bit weights does not take a matrix, for people; empty if it does. It takes 4 bits, symmetric,
/// asymmetric (a raw range's zero points need not fit) and of a codebook, of a multiple of 8 columns, where every 32
/// columns share parameters: groups and blocks of a multiple of 32 (blocks only if rows are one as well), channels,
/// tensors, and act-order where every group has a multiple of 32 columns.
std::string why_not_w4(const QuantizedMatrix& q);
/// Error{unsupported} with why_not_w4().
HostW4 pack_w4(const QuantizedMatrix& q);
/// The canonical codes, rows × row_bytes(): pack_w4's inverse.
std::vector<std::uint8_t> unpack_w4_codes(const HostW4& packed);

/// The buffers of kernels/cuda/gemm_w8a8.h's PackedInt8: signed codes, and one multiplier a row.
struct HostInt8 {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::vector<std::uint32_t> codes;
  std::vector<float> multipliers;  ///< [rows] QuantizedMatrix::multiplier.

  [[nodiscard]] PackedInt8Layout layout() const { return {rows, cols}; }
  [[nodiscard]] std::int8_t code(std::size_t row, std::size_t col) const;
};

/// Why the int8 kernel does not take a matrix; empty if it does: 8 bits, symmetric or LLM.int8, one scale a row or one
/// for all, at most kMaxInt8Columns columns.
std::string why_not_int8(const QuantizedMatrix& q);
/// Error{unsupported} with why_not_int8().
HostInt8 pack_int8(const QuantizedMatrix& q);
std::vector<std::uint8_t> unpack_int8_codes(const HostInt8& packed);

}  // namespace nibble::inline NIBBLE_ABI::cuda
