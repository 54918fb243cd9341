// The run-time description of a quantization: what a code means and what shares a scale. Printed and parsed as text.
//
//   int4-g128-sym         4 bits, groups of 128 along a row, symmetric, f16 scales
//   int4-g32-asym-f32     asymmetric with f32 scales; -asymraw: the range is not extended to hold zero
//   int4-g64-asymreal     zero points that are real numbers, of the scales' type (scheme/real_zero.h), as HQQ has them
//   int8-channel-sym      one f32 scale per row; "int8" for short; int8-tensor-sym: one for the matrix
//   nf4-b64  fp4-b128     blocks over the flattened matrix; "nf4" for short; -dq: the absmax values are quantized too
//   dynamic8-b256         the 8-bit dynamic map, blockwise
//   llm-int8              LLM.int8 rows, outlier threshold 6; llm-int8-t0 turns outliers off
//   mine3-b64             any registered codebook (matrix/scheme_registry.h), with what nf4 takes
//   e4m3-channel          FP8 with one f32 scale per row; "fp8" for short; -tensor, -g128, -t128: a tile of 128 × 128;
//                         e5m2 likewise. With -e8m0 the scales are powers of two
//   mxfp4 mxfp6 mxfp8     the MX types: e2m1, e2m3 (e3m2-g32-e8m0 is the other) and e4m3, -g32-e8m0
//   nvfp4                 e2m1-g16-e4m3: an E4M3 scale for 16 values, one f32 for the matrix
//
// Options in any order after the name; -full and -restricted choose the symmetric range, -f32, -f16, -bf16 the scales,
// -largest, -floor, -even, -ceil, -search how those of small floats are fitted (scheme/small_float.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "nibble/scheme/granularity.h"
#include "nibble/scheme/scheme.h"

namespace nibble::inline NIBBLE_ABI {

/// Which scheme: those that kernels and file formats know by name. A value above real_zero stands for a scheme that was
/// registered (matrix/scheme_registry.h), and is good in one process: texts and files have its name.
enum class SchemeKind : std::uint8_t {
  symmetric,
  asymmetric,
  nf4,
  fp4,
  dynamic8,
  llm_int8,
  e4m3,
  e5m2,
  e2m3,
  e3m2,
  e2m1,
  real_zero
};

struct QuantSpec {
  SchemeKind scheme = SchemeKind::symmetric;
  int bits = 4;
  Granularity granularity = Granularity::group;
  std::size_t group_size = 128;  ///< For group, block and tile; 0 otherwise.
  bool narrow_range = false;     ///< Symmetric: without the lowest code (scheme/affine.h).
  bool preserve_zero = true;     ///< Asymmetric, of integer zero points: extend the range to contain 0.
  ScaleType scale_type = ScaleType::f16;
  bool double_quant = false;                  ///< Codebook schemes: absmax in 8 bits (QLoRA, section 3).
  ScaleRule scale_rule = ScaleRule::largest;  ///< Small floats: how a scale is fitted.
  float threshold = 6.0f;  ///< LLM.int8: an activation column with |x| ≥ threshold is kept in floating point.

  friend bool operator==(const QuantSpec&, const QuantSpec&) = default;

  /// Parses the grammar above. Error{invalid_argument} quotes the text and says which part is wrong.
  static QuantSpec parse(std::string_view text);
  /// The text that parses back to this, defaults left out but the granularity always said.
  [[nodiscard]] std::string to_string() const;
  /// Throws Error{invalid_argument} unless every field is in range and they fit together.
  void validate() const;

  /// The two families of decoders, (code − zero_point)·scale and codebook[code]·absmax. LLM.int8 is neither, nor is
  /// (code − zero)·scale with a real zero.
  [[nodiscard]] NIBBLE_HD constexpr bool is_affine() const {
    return scheme == SchemeKind::symmetric || scheme == SchemeKind::asymmetric;
  }
  [[nodiscard]] NIBBLE_HD constexpr bool has_real_zeros() const { return scheme == SchemeKind::real_zero; }
  [[nodiscard]] NIBBLE_HD constexpr bool is_codebook() const {
    return !is_affine() && !has_real_zeros() && scheme != SchemeKind::llm_int8;
  }
  /// Whether integer zero points are stored (asymmetric): as int32 (raw range) or in `bits` bits.
  [[nodiscard]] NIBBLE_HD constexpr bool has_zero_points() const { return scheme == SchemeKind::asymmetric; }

  /// Whether codes are floats (scheme/small_float.h), whose groups may be any: of the codebooks, those of `e4m3` and
  /// on, and registered ones of the kind.
  [[nodiscard]] bool has_float_codes() const noexcept;
  /// How scales of its type are fitted unless a text says it: powers of two `even`, NVFP4 `search`, others `largest`.
  [[nodiscard]] ScaleRule default_scale_rule() const noexcept;
  /// Whether the matrix has a scale beside those of its groups (QuantizedMatrix::tensor_scale).
  [[nodiscard]] NIBBLE_HD constexpr bool has_tensor_scale() const { return scale_type == ScaleType::e4m3; }

  /// Which elements share a scale.
  [[nodiscard]] Grouping grouping() const { return {granularity, group_size}; }
  /// Scales of a rows × cols matrix.
  [[nodiscard]] std::size_t group_count(std::size_t rows, std::size_t cols) const {
    return grouping().count(rows, cols);
  }
  /// Groups that a row meets (granularity group and tile), else 1.
  [[nodiscard]] std::size_t groups_per_row(std::size_t cols) const { return grouping().per_row(cols); }
  /// Stored bits per weight of a rows × cols matrix: codes, scales, zero points and nested statistics.
  [[nodiscard]] double bits_per_weight(std::size_t rows, std::size_t cols) const;
};

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/matrix/scheme_registry.h"
#endif
