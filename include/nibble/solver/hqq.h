// HQQ: half-quadratic quantization (Badri & Shaji, "Half-Quadratic Quantization of Large Machine Learning Models",
// 2023), which needs no data: each group's zero point is chosen to make Σ|w − ŵ|^p small, p = 0.7 counting the many
// small errors more, and the few outliers less, than squares would.
//
//   auto [q, report] = nibble::hqq::solve(weights);                                       // int4-g64-asymreal
//   auto [r, more] = nibble::hqq::solve(weights, nibble::hqq::Options::parse("hqq-3-g128-asym"));
//
// The two halves of the method take turns, by group:
//
//   1. the errors e = w − ŵ of the codes nearest to w are shrunk, e' = sign(e)·max(0, |e| − |e|^(p−1)/β): what is left
//      of them belongs to outliers, which the grid is not to follow;
//   2. the zero point, and the scale with fit_scale, becomes the one that fits the codes to w − e' best, by least
//   squares
//      in closed form; β ·= κ.
//
// That ends after `iterations` looks at a group, or when Σ|e|^p no longer falls, and the best parameters seen are kept:
// no group is worse by that measure than rounded to its range (with round_zero: than where it starts). Codes are
// rounded to the parameters as they are stored.
//
// What differs from the library `hqq` (0.2.8):
//   - errors are counted in steps of the group's first scale, so that weights twice as large get the same codes; the
//     library's β is for the weights' own unit, in which the errors of usual weights are all shrunk to nothing and the
//     second half alone is at work;
//   - it ends group by group and keeps each one's best; the library ends with the mean |e| of the whole matrix, one
//     turn after the best, and never applies κ;
//   - the first zero point is rounded where that is asked for (round_zero), at 4 bits by default there, and zero points
//     are stored in the scales' type.
// Σ|e|^p is lower for it by 0.2 to 2 % on normal weights (tests/golden/make_hqq_golden.py --beside-library).
//
// Zero points that are real numbers are what `-asymreal` specs store (scheme/real_zero.h), in nibble's own layout. The
// layouts of GPTQ, AWQ and compressed-tensors have room for integers alone, `-asym` specs, or none, `-sym`. A zero
// point that is rounded to an integer hardly moves, so that it is the scale that is fitted there (fit_scale). Whether
// that helps depends on the model and the bits (bench/README.md): measure before you trust it.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"
#include "nibble/matrix/quantized_matrix.h"

namespace nibble::inline NIBBLE_ABI::hqq {

struct Options {
  /// What is stored: -asymreal, -asym or -sym, in groups that lie within rows (-gN, -channel, or -bN where N divides a
  /// row).
  QuantSpec spec = {.scheme = SchemeKind::real_zero, .group_size = 64};
  float lp_norm = 0.7f;  ///< p, in (0, 1].
  float beta = 10;      ///< β of the first turn, in steps of a group's scale; above 0. Errors below β^(1/(p−2)) go.
  float kappa = 1.01f;  ///< κ, at least 1.
  int iterations = 20;  ///< At least 1.
  /// Real zero points start from the nearest integer, so that 0 is a code at first: what the library does at 4 bits.
  bool round_zero = false;
  bool fit_scale = false;  ///< Whether the scale moves as well. -asym and -sym specs need it.
  /// What an error of each column counts, the mean square of the activations that multiply it (format/imatrix.h) say;
  /// empty: all alike.
  std::span<const float> importance = {};

  /// "hqq-4-g64", and what a QuantSpec has after its size; "-scale" and then "-round" at the end are fit_scale and
  /// round_zero. Zero points are real unless the text says -asym or -sym, which move the scale. Error{invalid_argument}
  /// quotes it and says what is wrong.
  static Options parse(std::string_view text);
  /// Whether the text names this method, rightly or not.
  static bool is_hqq(std::string_view text);

  std::string name = "matrix";   ///< Named in errors and in the report.
  Executor* executor = nullptr;  ///< Null: default_executor().
};

struct Report {
  std::string name;
  /// Σ |w − ŵ|^p, each term times its column's importance over the largest of all columns; and the same of plain
  /// rounding (with round_zero: of the start).
  double error = 0, rounding_error = 0;
};

struct Result {
  QuantizedMatrix matrix;
  Report report;
};

/// Quantizes weights [out, in]. A row in fp32 is held for each thread beside the result, which depends neither on the
/// number of threads nor on any backend. Errors: invalid_argument (an option out of range, said with its value; a spec
/// that the method does not fit; no weights), shape_mismatch (an importance of other columns), unsupported (another
/// type of weights), non_finite (names tensor, row, column and value; an importance that is negative or no number; a
/// scale that its type cannot hold).
Result solve(FloatMatrix weights, const Options& options = {});

}  // namespace nibble::inline NIBBLE_ABI::hqq

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/hqq_inl.h"
#endif
