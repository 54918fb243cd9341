#include "nibble/train/weight_gradient.h"

#include <string>
#include <vector>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/error.h"
#include "train/dense_product.h"

namespace nibble::inline NIBBLE_ABI::train {

namespace {

std::string shape_of(MatrixView<const float> m) { return std::to_string(m.rows) + " × " + std::to_string(m.cols); }

/// The kernels read the rows of their left matrix, and the gradient's are the columns of grad_y.
std::vector<float> transposed(MatrixView<const float> m, Executor& executor) {
  constexpr std::size_t kGrain = 16;  // columns, so that a task reads whole cache lines
  std::vector<float> out(m.rows * m.cols);
  parallel_for(executor, m.cols, kGrain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t r = 0; r < m.rows; ++r)
      for (std::size_t c = begin; c < end; ++c) out[c * m.rows + r] = m(r, c);
  });
  return out;
}

}  // namespace

void add_weight_gradient(MatrixView<const float> x, MatrixView<const float> grad_y, MatrixView<float> grad_w,
                         Executor& executor, const Backend* backend) {
  x.validate("add_weight_gradient: x");
  grad_y.validate("add_weight_gradient: grad_y");
  grad_w.validate("add_weight_gradient: grad_w");
  if (x.rows != grad_y.rows || grad_w.rows != grad_y.cols || grad_w.cols != x.cols)
    throw Error(ErrorCode::shape_mismatch, "add_weight_gradient: x is " + shape_of(x) + ", grad_y " + shape_of(grad_y) +
                                               " and grad_w " + shape_of(grad_w) +
                                               "; tokens × in, tokens × out and out × in are needed");
  if (x.rows == 0) return;
  const std::vector<float> turned = transposed(grad_y, executor);
  dense_product(
      kernels_of(backend), executor, {turned.data(), grad_y.cols, grad_y.rows}, x.cols,
      [&](std::size_t t, std::size_t i) { return x(t, i); },
      [&](std::size_t o, std::size_t first, const float* sums, std::size_t n) {
        for (std::size_t i = 0; i < n; ++i) grad_w(o, first + i) += sums[i];
      });
}

}  // namespace nibble::inline NIBBLE_ABI::train
