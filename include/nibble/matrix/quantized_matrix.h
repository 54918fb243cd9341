// The canonical form that quantizers produce, formats read and write, and backends pack.
//
// Byte layout, all little-endian:
//
//   codes        rows × row_bytes(): each row an LSB-first stream of `bits`-wide codes (core/bit_pack.h), rows padded
//                to whole bytes, so that rows can be written by different threads
//   scales       group_count() elements of spec.scale_type: the scale (affine) or absmax (codebook, LLM.int8);
//                with double quantization instead one byte each: value = nested.map[byte]·nested.absmax[i/256] + offset
//                with E4M3 scales value = scale / tensor_scale or scale · tensor_scale (TensorScale)
//   zero_points  asymmetric only: one byte per group, or one int32 where the range was kept raw; real zero points are
//                numbers of spec.scale_type
//   g_idx        act-order checkpoints only: the group of each column, cols int32; empty means column/group_size
//
// Group order: tensor {0}; channel {row}; group {row·groups_per_row + group in row}; block {flat index/group_size};
// tile {row/group_size·groups_per_row + column/group_size}.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "nibble/core/bit_pack.h"
#include "nibble/core/buffer.h"
#include "nibble/core/matrix_view.h"
#include "nibble/matrix/quant_spec.h"
#include "nibble/scheme/double_quant.h"

namespace nibble::inline NIBBLE_ABI {

/// Double-quantized absmax values: blocks of `block_size` share one float.
struct NestedScales {
  static constexpr std::size_t block_size = kNestedBlock;
  std::vector<float> absmax;  ///< One per block.
  std::vector<float> map;     ///< 256 values; the map of the file where one was read.
  float offset = 0;           ///< The mean of the absmax values, subtracted before quantizing.
};

/// What the E4M3 scales of a matrix have in common. Both ways of writing it are in use, and differ by a rounding:
/// compressed-tensors divides, ModelOpt multiplies.
struct TensorScale {
  float value = 1;
  bool divides = true;

  friend bool operator==(const TensorScale&, const TensorScale&) = default;
  [[nodiscard]] constexpr float apply(float scale) const { return divides ? scale / value : scale * value; }
};

struct QuantizedMatrix {
  QuantSpec spec;
  std::size_t rows = 0;
  std::size_t cols = 0;
  Buffer codes;
  Buffer scales;
  Buffer zero_points;
  NestedScales nested;
  TensorScale tensor_scale;     ///< Where spec.has_tensor_scale().
  std::vector<float> codebook;  ///< Codebook schemes: 2^bits values, those of the file where one was read.
  std::vector<std::int32_t> g_idx;

  /// An all-zero matrix of the right buffers. Validates the spec; Error{invalid_argument} for an empty shape.
  static QuantizedMatrix allocate(const QuantSpec& spec, std::size_t rows, std::size_t cols);
  /// Throws Error{corrupt_file} naming `name` unless the shape is none that is empty or too large for an address, every
  /// buffer has the size that spec and shape ask for, and every g_idx is a group of the row: all that reading it safely
  /// takes. As quick as reading a row.
  void validate_layout(const std::string& name) const;
  /// That, and every scale, codebook value and zero point is one that the spec can have (finite; zero points of a byte
  /// below 2^bits), and no code of a float is NaN: what a format calls on what it read, and pack() on what it is
  /// handed. As quick as reading the matrix.
  void validate(const std::string& name) const;

  [[nodiscard]] std::size_t row_bytes() const { return packed_bytes(cols, spec.bits); }
  [[nodiscard]] const std::uint8_t* row_codes(std::size_t r) const {
    return codes.as<std::uint8_t>() + r * row_bytes();
  }
  [[nodiscard]] std::uint8_t code(std::size_t r, std::size_t c) const { return get_code(row_codes(r), c, spec.bits); }
  [[nodiscard]] std::size_t group_count() const { return spec.group_count(rows, cols); }
  [[nodiscard]] std::size_t group_of(std::size_t r, std::size_t c) const;

  /// The stored scale or absmax of a group, double quantization undone and the tensor's scale applied.
  [[nodiscard]] float scale(std::size_t group) const;
  /// The zero point of a group (affine and LLM.int8; real ones have zero()).
  [[nodiscard]] std::int32_t zero_point(std::size_t group) const;
  /// The same, or the real number where spec.has_real_zeros(): what is subtracted from a code.
  [[nodiscard]] float zero(std::size_t group) const;
  /// What multiplies (code − zero_point) or codebook[code]: scale(), but absmax/127 for LLM.int8.
  [[nodiscard]] float multiplier(std::size_t group) const {
    return spec.scheme == SchemeKind::llm_int8 ? scale(group) * LlmInt8::inverse_127 : scale(group);
  }
  /// One decoded weight. Slow; for tests and tools.
  [[nodiscard]] float value(std::size_t r, std::size_t c) const;

  /// Bytes held: codes, scales, zero points, nested statistics, codebook, g_idx.
  [[nodiscard]] std::size_t storage_bytes() const;
};

/// Quantizes fp32 absmax values into `bytes` (one each) and `nested` (scheme/double_quant.h).
void quantize_nested(const float* absmax, std::size_t count, std::uint8_t* bytes, NestedScales& nested);

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/matrix/impl/quantized_matrix_inl.h"
#endif
