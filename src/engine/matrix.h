// A matrix that owns its memory, for what lives between two operations.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>

#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// Its elements are whatever was in the memory, until they are written: what is overwritten need not be cleared first.
class Matrix {
 public:
  Matrix() = default;
  Matrix(std::size_t rows, std::size_t cols)
      : values_(std::make_unique_for_overwrite<float[]>(rows * cols)), rows_(rows), cols_(cols) {}
  explicit Matrix(MatrixView<const float> m) : Matrix(m.rows, m.cols) {
    for (std::size_t r = 0; r < m.rows; ++r) std::ranges::copy(m.row(r), view().row(r).begin());
  }
  static Matrix zeros(std::size_t rows, std::size_t cols) {
    Matrix out(rows, cols);
    std::fill_n(out.values_.get(), rows * cols, 0.0f);
    return out;
  }
  Matrix(const Matrix& other) : Matrix(other.view()) {}
  Matrix(Matrix&&) noexcept = default;
  Matrix& operator=(const Matrix& other) { return *this = Matrix(other); }
  Matrix& operator=(Matrix&&) noexcept = default;
  ~Matrix() = default;

  [[nodiscard]] MatrixView<float> view() { return {values_.get(), rows_, cols_}; }
  [[nodiscard]] MatrixView<const float> view() const { return {values_.get(), rows_, cols_}; }
  float& operator()(std::size_t r, std::size_t c) { return values_[r * cols_ + c]; }
  float operator()(std::size_t r, std::size_t c) const { return values_[r * cols_ + c]; }

 private:
  std::unique_ptr<float[]> values_;
  std::size_t rows_ = 0, cols_ = 0;
};

/// f(first, count) for ranges of the rows, on all threads. A row's result must not depend on the others.
template <class Function>
void row_ranges(Executor& executor, std::size_t rows, const Function& f) {
  constexpr std::size_t kGrain = 8;  // a row of some thousand elements takes about a microsecond
  parallel_for(executor, rows, kGrain, [&](std::size_t begin, std::size_t end) { f(begin, end - begin); });
}

/// f(row) for every row, on all threads.
template <class Function>
void each_row(Executor& executor, std::size_t rows, const Function& f) {
  row_ranges(executor, rows, [&](std::size_t first, std::size_t count) {
    for (std::size_t r = first; r < first + count; ++r) f(r);
  });
}

/// Gives each of the outputs, matrices `y`, its columns of what `multiply` writes: they lie side by side in that.
template <class Outputs, class Multiply>
void split_product(const Outputs& outputs, Executor& executor, const Multiply& multiply) {
  std::size_t width = 0;
  for (const auto& out : outputs) width += out.y.cols;
  Matrix joined(outputs.begin()->y.rows, width);
  multiply(joined.view());
  each_row(executor, joined.view().rows, [&](std::size_t r) {
    std::span<const float> rest = joined.view().row(r);
    for (const auto& out : outputs) {
      std::ranges::copy(rest.first(out.y.cols), out.y.row(r).begin());
      rest = rest.subspan(out.y.cols);
    }
  });
}

/// Matrices side by side.
inline Matrix join(std::span<const MatrixView<const float>> parts, Executor& executor) {
  std::size_t width = 0;
  for (const auto& part : parts) width += part.cols;
  Matrix out(parts.front().rows, width);
  each_row(executor, out.view().rows, [&](std::size_t r) {
    auto to = out.view().row(r).begin();
    for (const auto& part : parts) to = std::ranges::copy(part.row(r), to).out;
  });
  return out;
}

/// to += x
inline void add(MatrixView<const float> x, MatrixView<float> to, Executor& executor) {
  each_row(executor, x.rows, [&](std::size_t r) {
    for (std::size_t c = 0; c < x.cols; ++c) to(r, c) += x(r, c);
  });
}

}  // namespace nibble::inline NIBBLE_ABI::engine
