// Activation quantization: ranges observed on calibration data (static) or taken per call (dynamic), and fake
// quantization with a straight-through gradient for quantization-aware training.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/core/matrix_view.h"
#include "nibble/scheme/affine.h"

namespace nibble::inline NIBBLE_ABI {

/// How an observer turns what it saw into a range.
enum class RangeMethod : std::uint8_t {
  min_max,     ///< Everything seen fits.
  percentile,  ///< A stated share of the values fits; the rest saturates.
  mse,         ///< The clipping that minimises the mean squared error over what was seen.
};

struct ObserverOptions {
  RangeMethod method = RangeMethod::min_max;
  int bits = 8;
  bool symmetric = false;
  double percentile = 0.999;  ///< Share of the values that must fit, in (0, 1]. For `percentile`.
};

/// Collects calibration data for one tensor in bounded memory: a histogram of 4096 equal bins that widens by doubling
/// as values arrive. Percentile and MSE ranges are therefore exact to a bin, 1/2048 of the observed absmax at worst.
class RangeObserver {
 public:
  /// Error{invalid_argument} for bits outside 2 … 8 or a percentile outside (0, 1].
  explicit RangeObserver(ObserverOptions options = {}, std::string name = "activation");
  /// Error{non_finite} names the tensor, the position in `values` and the value; nothing of `values` is then counted.
  void observe(std::span<const float> values);
  /// The parameters to encode with. Error{invalid_argument} if nothing was observed.
  [[nodiscard]] AffineParams params() const;
  [[nodiscard]] Range range() const;  ///< The chosen range, clipped as the method says.
  [[nodiscard]] std::size_t count() const { return count_; }

 private:
  [[nodiscard]] AffineParams fit(Range r) const;
  [[nodiscard]] double squared_error(Range r) const;
  [[nodiscard]] Range percentile_range() const;
  [[nodiscard]] Range mse_range() const;
  void widen_to(float absmax);

  ObserverOptions options_;
  std::string name_;
  Range seen_;
  std::size_t count_ = 0;
  float limit_ = 0;  ///< The histogram covers −limit_ … limit_.
  std::vector<std::uint64_t> bins_;
};

/// Activations in 8 bits or fewer: codes one per byte, unsigned, value = (code − zero_point)·scale.
struct QuantizedActivations {
  std::size_t rows = 0, cols = 0;
  std::vector<std::uint8_t> codes;
  std::vector<AffineParams> params;  ///< One (static) or one per row (dynamic).
};

/// Static: every row by the calibrated parameters. Error{invalid_argument} for a scale that is not positive and finite,
/// here and below.
QuantizedActivations quantize_static(MatrixView<const float> x, AffineParams params, int bits);
/// Dynamic: each row (token) by its own range. Both refuse NaN and infinity as Error{non_finite} naming the place.
QuantizedActivations quantize_dynamic(MatrixView<const float> x, int bits, bool symmetric);

/// Fake quantization, forward: out[i] = decode(encode(x[i])). `low` and `high` bound the codes, 0 … 2^bits − 1.
/// Error{non_finite} names the first value that is none; Error{shape_mismatch} for spans of other lengths.
void fake_quantize(std::span<const float> x, AffineParams p, int bits, std::span<float> out);
/// Its straight-through gradient (Bengio et al. 2013): grad_x[i] = grad_out[i] where x[i] was inside the range of the
/// codes, 0 where it saturated.
void fake_quantize_gradient(std::span<const float> x, AffineParams p, int bits, std::span<const float> grad_out,
                            std::span<float> grad_x);

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/quantize/impl/activation_inl.h"
#endif
