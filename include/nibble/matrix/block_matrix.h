// A matrix of GGUF blocks (scheme/gguf_blocks.h): the native form of K-quants, beside the canonical QuantizedMatrix.
//
// Rows lie one after another, each a whole number of blocks. Where a block type is nothing but codes, one scale a group
// and a constant zero point it is also a QuantizedMatrix, value for value, and runs on the same kernels:
//
//   Q4_0 ↔ int4-g32-sym    Q5_0 ↔ int5-g32-sym    Q8_0 ↔ int8-g32-sym    (f16 scales, which may be negative)
//   Q3_K → int3-g16-sym-f32    Q6_K → int6-g16-sym-f32    Q8_K → int8-g256-sym-f32    (two-level scales multiplied out)
//
// The others have no such form: a real-valued minimum (Q4_1, Q5_1, Q2_K, Q4_K, Q5_K), a table of their own (IQ4, MXFP4,
// NVFP4), points of a lattice (IQ1, IQ2, IQ3), another zero point (TQ1_0, TQ2_0, Q1_0, Q2_0). The CPU backends
// multiply their codes all the same (Backend::matmul).
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "nibble/core/buffer.h"
#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"
#include "nibble/matrix/quantized_matrix.h"
#include "nibble/scheme/gguf_blocks.h"

namespace nibble::inline NIBBLE_ABI {

struct BlockMatrix {
  BlockType type = BlockType::f32;
  std::size_t rows = 0;
  std::size_t cols = 0;
  Buffer blocks;  ///< rows × row_bytes(), of any alignment.

  /// All-zero blocks. Error{invalid_argument} for an empty shape or cols that is no multiple of block_size(type).
  static BlockMatrix allocate(BlockType type, std::size_t rows, std::size_t cols);
  /// The values of a float matrix in blocks. `name` is only for messages. Errors: those of allocate; unsupported for a
  /// type that can_encode() does not know; non_finite names the first NaN, infinity or block whose scale f16 cannot
  /// hold.
  /// `importance`: what a squared error of each column counts, the mean square of the activations that multiply it
  /// (cols of them), or empty: all alike. Error{shape_mismatch} for another number, and non_finite names a column whose
  /// importance is negative or no number.
  static BlockMatrix encode(FloatMatrix weights, BlockType type, std::string_view name, Executor& executor,
                            std::span<const float> importance = {});

  /// Throws Error{corrupt_file} naming `name` unless the shape fits the type and the buffer the shape.
  void validate(const std::string& name) const;

  [[nodiscard]] std::size_t row_bytes() const { return cols / block_size(type) * block_bytes(type); }
  [[nodiscard]] const std::byte* row(std::size_t r) const { return blocks.data() + r * row_bytes(); }
  /// Columns [first, last) of a row, any.
  void decode_row(std::size_t r, std::size_t first, std::size_t last, float* out) const;
  void decode_row(std::size_t r, float* out) const { decode_row(r, 0, cols, out); }

  /// The same elements as a FloatMatrix, for F32, F16 and BF16; they must be aligned. Valid while the buffer is.
  /// Error{unsupported} otherwise.
  [[nodiscard]] FloatMatrix as_floats() const;
  /// This, or a copy whose buffer is aligned: files may put floats at any byte.
  [[nodiscard]] BlockMatrix aligned() const;

  [[nodiscard]] std::size_t storage_bytes() const { return blocks.size(); }
  [[nodiscard]] double bits_per_weight() const {
    return 8.0 * static_cast<double>(block_bytes(type)) / static_cast<double>(block_size(type));
  }
};

/// The spec of the QuantizedMatrix that holds the same values, or nothing. (Q8_0 and Q8_K: with the full range where a
/// code is −128, which quantizers never write; to_quantized() looks.)
std::optional<QuantSpec> exact_spec(BlockType type);
/// The same values in the canonical form. Error{unsupported} where exact_spec is nothing.
QuantizedMatrix to_quantized(const BlockMatrix& m);

/// The block type that holds exactly what `q` does: Q4_0, Q5_0 or Q8_0 for symmetric codes in groups of 32 with f16
/// scales and no g_idx; else nothing.
std::optional<BlockType> exact_block_type(const QuantizedMatrix& q);
/// The same values in blocks. Error{unsupported} where exact_block_type is nothing.
BlockMatrix to_blocks(const QuantizedMatrix& q);

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/matrix/impl/block_matrix_inl.h"
#endif
