#include "merged_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "nibble/core/impl/downcast.h"
#include "nibble/core/visit_float.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

/// Rows that are decoded at a time: a few megabytes, and work for every thread.
std::size_t rows_at_once(std::size_t cols) {
  constexpr std::size_t elements = std::size_t{1} << 20;
  return std::max<std::size_t>(1, elements / cols);
}

/// visit(first, count) for consecutive ranges of all rows.
template <class Visit>
void each_range(std::size_t rows, std::size_t cols, Visit&& visit) {
  const std::size_t most = rows_at_once(cols);
  for (std::size_t first = 0; first < rows; first += most) visit(first, std::min(most, rows - first));
}

/// In the order of the rows, so that threads change nothing.
MergeSums total(const std::vector<MergeSums>& rows) {
  MergeSums out;
  for (const MergeSums& row : rows) out += row;
  return out;
}

}  // namespace

void MergedRows::merge(std::size_t row, std::span<const float> base, std::span<double> out) const {
  std::fill(out.begin(), out.end(), 0.0);
  for (std::size_t k = 0; k < layer_.rank; ++k) {
    const double b = static_cast<double>(layer_.b[row * layer_.rank + k]);
    const double* a = a_.data() + k * layer_.in;
    for (std::size_t i = 0; i < layer_.in; ++i) out[i] += b * a[i];
  }
  const auto scale = static_cast<double>(layer_.scale());
  for (std::size_t i = 0; i < layer_.in; ++i) out[i] = static_cast<double>(base[i]) + scale * out[i];
  if (layer_.magnitude.empty()) return;
  double squares = 0;
  for (const double x : out) squares += x * x;
  if (squares == 0) return;
  const double factor = static_cast<double>(layer_.magnitude[row]) / std::sqrt(squares);
  for (double& x : out) x *= factor;
}

float once_rounded(double value, DType type) {
  const auto nearest = static_cast<float>(value);
  const auto back = static_cast<double>(nearest);
  if (type == DType::f32 || back == value || std::isnan(value)) return nearest;
  // Towards zero, then odd in the last bit: 24 bits are more than two beyond those of F16 and BF16.
  auto bits = std::bit_cast<std::uint32_t>(nearest);
  if (std::abs(back) > std::abs(value)) --bits;
  return std::bit_cast<float>(bits | 1u);
}

MergeSums& MergeSums::operator+=(const MergeSums& other) {
  weight += other.weight;
  change += other.change;
  rounding += other.rounding;
  untrained += other.untrained;
  kept += other.kept;
  return *this;
}

void MergeSums::add(double base, double exact, double stored) {
  const double delta = exact - base;
  weight += base * base;
  change += delta * delta;
  rounding += (stored - exact) * (stored - exact);
  kept += (stored - base) * delta;
}

void BaseRows::read(std::size_t first_row, MatrixView<float> out, const Backend& backend, Executor& executor) const {
  if (quantized_ != nullptr) return backend.dequantize(*quantized_, first_row, out, executor);
  for (std::size_t r = 0; r < out.rows; ++r)
    upcast_floats(floats_.type, floats_.row(first_row + r), cols, out.row(r).data());
}

Buffer merge_floats(const AdapterLayer& layer, const BaseRows& base, const BaseRows* trained, DType type,
                    const std::string& tensor, const MergeWorkers& workers, MergeSums& sums) {
  const MergedRows merged(layer);
  const std::size_t cols = base.cols, most = std::min(base.rows, rows_at_once(cols));
  Buffer out = Buffer::allocate(base.rows * cols * size_of(type));
  std::vector<MergeSums> of_row(base.rows);
  std::vector<float> from(most * cols), over(trained != nullptr ? from.size() : 0);
  each_range(base.rows, cols, [&](std::size_t first, std::size_t count) {
    base.read(first, {from.data(), count, cols}, workers.backend, workers.executor);
    if (trained != nullptr) trained->read(first, {over.data(), count, cols}, workers.backend, workers.executor);
    parallel_for(workers.executor, count, 1, [&](std::size_t begin, std::size_t end) {
      std::vector<double> exact(cols), was_trained(cols);
      std::vector<float> rounded(cols), stored(cols);
      for (std::size_t r = begin; r < end; ++r) {
        const std::size_t row = first + r;
        MergeSums& s = of_row[row];
        const std::span<const float> weights(from.data() + r * cols, cols);
        merged.merge(row, weights, exact);
        for (std::size_t i = 0; i < cols; ++i) rounded[i] = once_rounded(exact[i], type);
        check_downcast(rounded, type, tensor, cols, row);
        std::byte* to = out.writable<std::byte>() + row * cols * size_of(type);
        downcast_floats(type, rounded.data(), cols, to);
        upcast_floats(type, to, cols, stored.data());
        for (std::size_t i = 0; i < cols; ++i)
          s.add(static_cast<double>(weights[i]), exact[i], static_cast<double>(stored[i]));
        if (trained == nullptr) continue;
        merged.merge(row, {over.data() + r * cols, cols}, was_trained);
        for (std::size_t i = 0; i < cols; ++i) s.untrained += (exact[i] - was_trained[i]) * (exact[i] - was_trained[i]);
      }
    });
  });
  sums = total(of_row);
  return out;
}

Buffer store_floats(const BaseRows& base, DType type, const std::string& tensor, const MergeWorkers& workers) {
  const std::size_t cols = base.cols;
  Buffer out = Buffer::allocate(base.rows * cols * size_of(type));
  std::vector<float> from(std::min(base.rows, rows_at_once(cols)) * cols);
  each_range(base.rows, cols, [&](std::size_t first, std::size_t count) {
    base.read(first, {from.data(), count, cols}, workers.backend, workers.executor);
    const std::span<const float> values(from.data(), count * cols);
    check_downcast(values, type, tensor, cols, first);
    downcast_floats(type, values.data(), values.size(), out.writable<std::byte>() + first * cols * size_of(type));
  });
  return out;
}

namespace {

/// The whole W + Δ, in fp32.
std::vector<float> merge_decoded(const AdapterLayer& layer, const BaseRows& base, const MergeWorkers& workers) {
  const MergedRows merged(layer);
  const std::size_t cols = base.cols;
  std::vector<float> out(base.rows * cols);
  each_range(base.rows, cols, [&](std::size_t first, std::size_t count) {
    const MatrixView<float> view(out.data() + first * cols, count, cols);
    base.read(first, view, workers.backend, workers.executor);
    parallel_for(workers.executor, count, 1, [&](std::size_t begin, std::size_t end) {
      std::vector<double> exact(cols);
      for (std::size_t r = begin; r < end; ++r) {
        const std::span<float> row = view.row(r);
        merged.merge(first + r, row, exact);
        for (std::size_t i = 0; i < cols; ++i) row[i] = once_rounded(exact[i], DType::f32);
      }
    });
  });
  return out;
}

/// What was stored in place of `exact`.

MergeSums compare(const BaseRows& base, const std::vector<float>& exact, const BaseRows& stored,
                  const MergeWorkers& workers) {
  const std::size_t cols = base.cols, most = std::min(base.rows, rows_at_once(cols));
  std::vector<MergeSums> of_row(base.rows);
  std::vector<float> before(most * cols), after(most * cols);
  each_range(base.rows, cols, [&](std::size_t first, std::size_t count) {
    base.read(first, {before.data(), count, cols}, workers.backend, workers.executor);
    stored.read(first, {after.data(), count, cols}, workers.backend, workers.executor);
    parallel_for(workers.executor, count, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t r = begin; r < end; ++r)
        for (std::size_t i = r * cols; i < (r + 1) * cols; ++i)
          of_row[first + r].add(static_cast<double>(before[i]), static_cast<double>(exact[first * cols + i]),
                                static_cast<double>(after[i]));
    });
  });
  return total(of_row);
}

}  // namespace

bool changes(const AdapterLayer& layer) {
  return !layer.magnitude.empty() ||
         std::any_of(layer.b.begin(), layer.b.end(), [](float value) { return value != 0; });
}

QuantizedMatrix merge_quantized(const AdapterLayer& layer, const QuantizedMatrix& base, const std::string& tensor,
                                const MergeWorkers& workers, MergeSums& sums) {
  const std::vector<float> exact = merge_decoded(layer, base, workers);
  const MatrixView<const float> view(exact.data(), base.rows, base.cols);
  QuantizedMatrix out = changes(layer) ? workers.backend.quantize(view, base.spec, tensor, workers.executor) : base;
  sums = compare(base, exact, out, workers);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
