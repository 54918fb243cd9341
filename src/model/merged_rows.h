// Rows of W + Δ in double, and what storing them costs: the arithmetic of merging an adapter.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/core/buffer.h"
#include "nibble/model/adapter.h"

namespace nibble::inline NIBBLE_ABI::model {

/// Of one layer.
class MergedRows {
 public:
  explicit MergedRows(const AdapterLayer& layer) : layer_(layer), a_(layer.a.begin(), layer.a.end()) {}
  /// Row `row` of what `base`, that row of the weight, becomes. Sums run over the rank in its order, in double; a
  /// product of two floats is exact there. With a magnitude a row of zeros stays one.
  void merge(std::size_t row, std::span<const float> base, std::span<double> out) const;

 private:
  const AdapterLayer& layer_;
  std::vector<double> a_;
};

/// The nearest value of F32; for F16 and BF16 one of F32 that rounds to the nearest of theirs, so that nothing is
/// rounded twice: neither of its neighbours' ties is where the double was not (round to odd).
float once_rounded(double value, DType type);

/// Sums of squares over elements.
struct MergeSums {
  double weight = 0, change = 0, rounding = 0, untrained = 0;
  double kept = 0;  ///< Of the product of what was kept and the change.

  MergeSums& operator+=(const MergeSums& other);
  /// An element of the base, what it should become and what was stored.
  void add(double base, double exact, double stored);
};

/// A weight that can be read by rows: floats, or a quantized matrix, which is decoded.
class BaseRows {
 public:
  BaseRows(const FloatMatrix& floats) : rows(floats.rows), cols(floats.cols), floats_(floats) {}
  BaseRows(const QuantizedMatrix& q) : rows(q.rows), cols(q.cols), quantized_(&q) {}
  void read(std::size_t first_row, MatrixView<float> out, const Backend& backend, Executor& executor) const;
  const std::size_t rows, cols;

 private:
  FloatMatrix floats_;
  const QuantizedMatrix* quantized_ = nullptr;
};

/// Where the work is done.
struct MergeWorkers {
  const Backend& backend;
  Executor& executor;
};

/// W + Δ as elements of `type`. With `trained`, the weight that the adapter was trained over, `untrained` is summed.
/// Error{non_finite} names the place in `tensor` of a value that the type cannot hold.
Buffer merge_floats(const AdapterLayer& layer, const BaseRows& base, const BaseRows* trained, DType type,
                    const std::string& tensor, const MergeWorkers& workers, MergeSums& sums);
/// W alone.
Buffer store_floats(const BaseRows& base, DType type, const std::string& tensor, const MergeWorkers& workers);
/// W + Δ, and of it the nearest codes of the same spec, without act-order; the base itself where nothing changes().
/// `tensor` is for messages.
QuantizedMatrix merge_quantized(const AdapterLayer& layer, const QuantizedMatrix& base, const std::string& tensor,
                                const MergeWorkers& workers, MergeSums& sums);
/// False for an adapter as it was made, before any training: B is zero, and there is no magnitude.
bool changes(const AdapterLayer& layer);

}  // namespace nibble::inline NIBBLE_ABI::model
