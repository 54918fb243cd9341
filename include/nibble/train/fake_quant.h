// Fake quantization: weights that a layer multiplies by as if they were quantized, while they, the scales and the zero
// points of their groups are trained (quantization-aware training).
//
//   train::FakeQuant q(QuantSpec::parse("int2-g32-asym"), weights);       // latent weights [out, in]: the grid is
//   fitted q.values(quantized);                                                  // ŵ, which the forward pass
//   multiplies by q.add_gradients(grad_quantized, {grad_weights, grad_scales, grad_zero_points}); … a step of an
//   optimizer on q.weights, q.scales, q.zero_points … QuantizedMatrix saved = q.quantized(); // decodes to the bits of
//   values()
//
// A group's grid is what the library stores (scheme/affine.h): ŵ = (clamp(round(w/s), low − z, high − z))·s with s
// rounded to the type of the scales and z to an integer. So what was trained and what is saved are one.
//
// Roundings have no useful slope, so each is taken as the identity (Bengio et al. 2013, the straight-through
// estimator). With t = w/s and q = round(t), where the clamp does nothing to q (the "inside"):
//
//              ∂ŵ/∂w   ∂ŵ/∂s    ∂ŵ/∂z
//   inside       1      q − t     0
//   below        0     low − z    −s
//   above        0     high − z   −s
//
// That of the scale is LSQ's (Esser et al. 2020, "Learned Step Size Quantization", equation 3), that of the zero point
// LSQ+'s and EfficientQAT's (Chen et al. 2024, section 3.2). LSQ calls outside whatever lies beyond the outermost
// codes; here, as in EfficientQAT, what still rounds to them is inside: at two bits the outer halves of two of the four
// cells would not be trained otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"
#include "nibble/matrix/group_params.h"
#include "nibble/matrix/quantized_matrix.h"

namespace nibble::inline NIBBLE_ABI::train {

/// The grid that is stored for a learned scale and zero point: the scale in its type, never below the least that
/// divides; the zero point the nearest code, for symmetric specs the constant one. Infinite where the type holds no
/// such scale.
NIBBLE_HD constexpr AffineParams stored_grid(const AffineRule& rule, float scale, float zero_point) {
  const float s = stored_scale(scale > 0 ? scale : 0.0f, rule.scale_type);
  if (rule.symmetric) return {s, 1 << (rule.bits - 1)};
  if (!rule.preserve_zero) {
    constexpr float most = 0x1p22f;  // as fit_asymmetric
    return {s, round_half_even(zero_point < -most ? -most : zero_point > most ? most : zero_point)};
  }
  const auto top = static_cast<float>(rule.highest_code());
  return {s, round_half_even(zero_point > 0 ? (zero_point < top ? zero_point : top) : 0.0f)};
}

/// What a weight is taken for: affine_decode of its affine_encode.
NIBBLE_HD constexpr float fake_quantize(float w, AffineParams grid, const AffineRule& rule) {
  return affine_decode(affine_encode(w, grid, rule.lowest_code(), rule.highest_code()), grid);
}

/// The table above, for one weight.
struct FakeQuantSlopes {
  float weight = 0, scale = 0, zero_point = 0;
  friend constexpr bool operator==(const FakeQuantSlopes&, const FakeQuantSlopes&) = default;
};
NIBBLE_HD constexpr FakeQuantSlopes fake_quant_slopes(float w, AffineParams grid, const AffineRule& rule) {
  const auto low = static_cast<float>(rule.lowest_code() - grid.zero_point),
             high = static_cast<float>(rule.highest_code() - grid.zero_point);
  const float t = w / grid.scale;
  if (t < low - 0.5f) return {0, low, -grid.scale};
  if (t > high + 0.5f) return {0, high, -grid.scale};
  const float clamped = t < low ? low : t > high ? high : t;
  return {1, static_cast<float>(round_half_even(clamped)) - t, 0};
}

/// LSQ's factor for the gradient of a scale that n weights share, 1/√(n·Qp), Qp = 2^(bits−1) − 1 the highest signed
/// code (section 2.2): updates of scales and weights are then of like size, under SGD and where gradients are clipped
/// together; Adam divides it out again.
double scale_gradient_factor(std::size_t n, int bits);

/// How the grid of a group begins.
enum class GridStart : std::uint8_t {
  range,  ///< The library's own: from the smallest to the largest weight.
  mean,   ///< LSQ's: a scale of 2·mean|w|/√Qp, the zero point in the middle.
  error,  ///< The share of the range, 35 % to 100 % of it in steps of 2.5 %, with the least squared error.
};

/// Where gradients go; each is added to, and one that is empty is not wanted.
struct FakeQuantGradients {
  MatrixView<float> weights = {};
  std::span<float> scales = {}, zero_points = {};
  double scale_factor = 1;  ///< Of the scales' gradients, such as scale_gradient_factor().
};

/// A matrix of latent weights and its grids. The vectors keep their size, and are an optimizer's to change.
class FakeQuant {
 public:
  /// Fits the grids. Error{unsupported} unless the spec is affine with groups that lie within rows (granularity group
  /// or channel), and its double_quant off; non_finite names the weight, or the group whose scale its type cannot hold;
  /// `name` is the matrix's in messages.
  FakeQuant(const QuantSpec& spec, MatrixView<const float> weights, GridStart start, std::string_view name,
            Executor& executor = default_executor());
  /// Begins with the grids and codes of a matrix: each weight is moved to the nearest value that has the code there.
  /// Errors beside those: shape_mismatch; unsupported for a matrix in order of activations (g_idx).
  FakeQuant(const QuantizedMatrix& start, MatrixView<const float> weights, std::string_view name,
            Executor& executor = default_executor());

  std::vector<float> weights;      ///< [rows, cols]
  std::vector<float> scales;       ///< By group, in the order of QuantizedMatrix.
  std::vector<float> zero_points;  ///< The same; empty for symmetric specs.

  [[nodiscard]] const QuantSpec& spec() const { return spec_; }
  [[nodiscard]] std::size_t rows() const { return rows_; }
  [[nodiscard]] std::size_t cols() const { return cols_; }
  [[nodiscard]] AffineParams grid(std::size_t group) const {
    return stored_grid(affine_rule(spec_), scales[group], zero_points.empty() ? 0.0f : zero_points[group]);
  }

  /// out [rows, cols] = ŵ.
  void values(MatrixView<float> out, Executor& executor = default_executor()) const;
  /// From the gradient of ŵ. A group's sum is over its columns in order, in fp64. Error{shape_mismatch}.
  void add_gradients(MatrixView<const float> grad_values, const FakeQuantGradients& to,
                     Executor& executor = default_executor()) const;
  /// What is saved: value(r, c) is values()' there. Error{non_finite} names a weight or a scale that is none.
  [[nodiscard]] QuantizedMatrix quantized(Executor& executor = default_executor()) const;

 private:
  QuantSpec spec_;
  std::size_t rows_, cols_;
  std::string name_;
};

}  // namespace nibble::inline NIBBLE_ABI::train
