#include "nibble/train/lora.h"

#include <algorithm>
#include <string>
#include <vector>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/error.h"
#include "train/dense_product.h"

namespace nibble::inline NIBBLE_ABI::train {

namespace {

using Floats = std::vector<float>;

std::string shape_of(MatrixView<const float> m) { return std::to_string(m.rows) + " × " + std::to_string(m.cols); }

/// `m` must be rows × cols; said of the index-th of the products or gradients of a call.
void check(const char* call, std::size_t index, const char* name, MatrixView<const float> m, std::size_t rows,
           std::size_t cols) {
  const std::string what = std::string(call) + ", number " + std::to_string(index) + ": " + name;
  m.validate(what);
  if (m.rows != rows || m.cols != cols)
    throw Error(ErrorCode::shape_mismatch, what + " is " + shape_of(m) + "; " + std::to_string(rows) + " × " +
                                               std::to_string(cols) + " is needed");
}

/// x with its mask, which lies in `scratch` unless there is none.
MatrixView<const float> masked(MatrixView<const float> x, const Dropout& dropout, Floats& scratch, Executor& executor,
                               const Backend* backend) {
  if (dropout.rate == 0) return x;
  scratch.resize(x.rows * x.cols);
  const MatrixView<float> out(scratch.data(), x.rows, x.cols);
  dropout.apply(x, out, executor, backend);
  return out;
}

/// What the products of one call share.
class Products {
 public:
  Products(Executor& executor, const Backend* backend)
      : executor_(executor), backend_(backend), isa_(kernels_of(backend)) {}

  [[nodiscard]] Executor& executor() const { return executor_; }
  [[nodiscard]] const Backend* backend() const { return backend_; }

  /// x·Aᵀ, [n, r].
  Floats down(MatrixView<const float> x, MatrixView<const float> a) const {
    Floats out(x.rows * a.rows);
    dense_product(
        isa_, executor_, x, a.rows, [&](std::size_t k, std::size_t r) { return a(r, k); },
        [&](std::size_t t, std::size_t first, const float* sums, std::size_t n) {
          std::copy_n(sums, n, out.data() + t * a.rows + first);
        });
    return out;
  }
  /// scale·grad_y·B, [n, r].
  Floats through_b(MatrixView<const float> grad_y, MatrixView<const float> b, float scale) const {
    Floats out(grad_y.rows * b.cols);
    dense_product(
        isa_, executor_, grad_y, b.cols, [&](std::size_t k, std::size_t r) { return b(k, r); },
        [&](std::size_t t, std::size_t first, const float* sums, std::size_t n) {
          for (std::size_t i = 0; i < n; ++i) out[t * b.cols + first + i] = scale * sums[i];
        });
    return out;
  }
  /// to [n, cols] += scale·(left [n, r] · right [r, cols]); right(k, c) as given.
  template <class Right>
  void add(const Floats& left, std::size_t r, const Right& right, float scale, MatrixView<float> to) const {
    dense_product(isa_, executor_, {left.data(), to.rows, r}, to.cols, right,
                  [&](std::size_t t, std::size_t first, const float* sums, std::size_t n) {
                    for (std::size_t i = 0; i < n; ++i) to(t, first + i) += scale * sums[i];
                  });
  }
  /// leftᵀ·right [r, cols] for left [n, r], right [n, cols]; store(k, first, sums, n) as dense_product's.
  template <class Store>
  void transposed(const Floats& left, std::size_t r, MatrixView<const float> right, const Store& store) const {
    Floats turned(left.size());
    for (std::size_t t = 0; t < right.rows; ++t)
      for (std::size_t k = 0; k < r; ++k) turned[k * right.rows + t] = left[t * r + k];
    dense_product(
        isa_, executor_, {turned.data(), r, right.rows}, right.cols,
        [&](std::size_t t, std::size_t c) { return right(t, c); }, store);
  }

 private:
  Executor& executor_;
  const Backend* backend_;
  const kernels::KernelTable& isa_;
};

/// Tokens whose masked input is there at once, whole parts of a sum over tokens.
constexpr std::size_t kTokens = 2 * kernels::kPanelDepth;

/// What concerns some tokens of a matrix product; the weights are all of them.
template <class Product>
Product part_of(const Product& whole, std::size_t first, std::size_t count) {
  Product part = whole;
  part.x = whole.x.row_range(first, count);
  part.dropout.first_row = whole.dropout.first_row + first;
  return part;
}

void add_gradients(const Products& products, const LoraGradient& g, Floats& scratch) {
  const MatrixView<const float> x = masked(g.x, g.dropout, scratch, products.executor(), products.backend());
  const std::size_t r = g.a.rows;
  if (g.grad_b.data != nullptr) {
    const Floats down = products.down(x, g.a);
    products.transposed(down, r, g.grad_y, [&](std::size_t k, std::size_t first, const float* sums, std::size_t n) {
      for (std::size_t i = 0; i < n; ++i) g.grad_b(first + i, k) += g.scale * sums[i];
    });
  }
  if (g.grad_a.data == nullptr && g.grad_x.data == nullptr) return;
  const Floats through = products.through_b(g.grad_y, g.b, g.scale);
  if (g.grad_a.data != nullptr)
    products.transposed(through, r, x, [&](std::size_t k, std::size_t first, const float* sums, std::size_t n) {
      for (std::size_t i = 0; i < n; ++i) g.grad_a(k, first + i) += sums[i];
    });
  if (g.grad_x.data == nullptr) return;
  const auto a = [&](std::size_t k, std::size_t c) { return g.a(k, c); };
  if (g.dropout.rate == 0) return products.add(through, r, a, 1, g.grad_x);
  std::ranges::fill(scratch, 0.0f);  // x without what dropout took is needed no more
  const MatrixView<float> unmasked(scratch.data(), g.x.rows, g.x.cols);
  products.add(through, r, a, 1, unmasked);
  g.dropout.apply(unmasked, unmasked, products.executor(), products.backend());
  parallel_for(products.executor(), g.x.rows, 8, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t)
      for (std::size_t c = 0; c < g.x.cols; ++c) g.grad_x(t, c) += unmasked(t, c);
  });
}

}  // namespace

void add_lora(std::span<const LoraProduct> products, Executor& executor, const Backend* backend) {
  for (std::size_t i = 0; i < products.size(); ++i) {
    const LoraProduct& p = products[i];
    p.x.validate("add_lora: x");
    check("add_lora", i, "A", p.a, p.a.rows, p.x.cols);
    check("add_lora", i, "B", p.b, p.b.rows, p.a.rows);
    check("add_lora", i, "y", p.y, p.x.rows, p.b.rows);
    p.dropout.validate();
  }
  const Products all(executor, backend);
  Floats scratch;
  for (const LoraProduct& whole : products)
    for (std::size_t t = 0; t < whole.x.rows; t += kTokens) {
      LoraProduct p = part_of(whole, t, std::min(kTokens, whole.x.rows - t));
      p.y = whole.y.row_range(t, p.x.rows);
      all.add(
          all.down(masked(p.x, p.dropout, scratch, executor, backend), p.a), p.a.rows,
          [&](std::size_t k, std::size_t o) { return p.b(o, k); }, p.scale, p.y);
    }
}

void add_lora_gradients(std::span<const LoraGradient> gradients, Executor& executor, const Backend* backend) {
  const char* const call = "add_lora_gradients";
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const LoraGradient& g = gradients[i];
    g.x.validate("add_lora_gradients: x");
    check(call, i, "A", g.a, g.a.rows, g.x.cols);
    check(call, i, "B", g.b, g.b.rows, g.a.rows);
    check(call, i, "grad_y", g.grad_y, g.x.rows, g.b.rows);
    g.dropout.validate();
    if (g.grad_x.data != nullptr) check(call, i, "grad_x", g.grad_x, g.x.rows, g.x.cols);
    if (g.grad_a.data != nullptr) check(call, i, "grad_a", g.grad_a, g.a.rows, g.a.cols);
    if (g.grad_b.data != nullptr) check(call, i, "grad_b", g.grad_b, g.b.rows, g.b.cols);
  }
  const Products products(executor, backend);
  Floats scratch;
  for (const LoraGradient& whole : gradients)
    for (std::size_t t = 0; t < whole.x.rows; t += kTokens) {
      LoraGradient g = part_of(whole, t, std::min(kTokens, whole.x.rows - t));
      g.grad_y = whole.grad_y.row_range(t, g.x.rows);
      if (whole.grad_x.data != nullptr) g.grad_x = whole.grad_x.row_range(t, g.x.rows);
      add_gradients(products, g, scratch);
    }
}

}  // namespace nibble::inline NIBBLE_ABI::train
