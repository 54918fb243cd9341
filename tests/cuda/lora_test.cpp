// LoRA's products and gradients on a device, against sums in fp64.
#include "nibble/cuda/lora.h"

#include <cmath>

#include "tests/cuda/backend_support.h"
#include "tests/support/expect_error.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;
using cuda::DeviceMatrix;
using cuda::LoraGradient;
using cuda::LoraProduct;
using cuda::MutableDeviceMatrix;

/// A matrix on both sides, and views of its parts.
template <class T>
struct Both {
  Both(std::size_t row_count, std::size_t column_count, unsigned seed, std::size_t shift = 0)
      : rows(row_count),
        cols(column_count),
        offset(shift),
        host(converted<T>(normal(offset + rows * cols, seed))),
        device(host) {}
  std::size_t rows, cols, offset;  ///< offset: elements before the first, to have it unaligned
  std::vector<T> host;
  DeviceArray<T> device;

  [[nodiscard]] double at(std::size_t r, std::size_t c) const {
    return static_cast<double>(static_cast<float>(host[offset + r * cols + c]));
  }
  [[nodiscard]] MutableDeviceMatrix part(std::size_t row, std::size_t row_count, std::size_t col,
                                         std::size_t column_count) const {
    return {device.get() + offset + row * cols + col, element_type<T>, row_count, column_count, cols};
  }
  [[nodiscard]] MutableDeviceMatrix all() const { return part(0, rows, 0, cols); }
};

/// What is added to an element: the exact value, and the sum of the magnitudes it is made of.
struct Sum {
  double value = 0, size = 0;
  void add(double x, double magnitude) { value += x, size += magnitude; }
};
using Sums = std::vector<std::vector<Sum>>;

/// op(a)·op(b) of matrices given as element functions [m, k] and [k, n].
template <class A, class B>
Sums product(std::size_t m, std::size_t n, std::size_t k, double scale, const A& a, const B& b) {
  Sums out(m, std::vector<Sum>(n));
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t j = 0; j < n; ++j)
      for (std::size_t l = 0; l < k; ++l) {
        const Sum x = a(i, l), y = b(l, j);
        out[i][j].add(scale * x.value * y.value, std::abs(scale) * x.size * y.size);
      }
  return out;
}
template <class M>
auto element(const M& m) {
  return [&m](std::size_t r, std::size_t c) { return Sum{m.at(r, c), std::abs(m.at(r, c))}; };
}
template <class M>
auto turned(const M& m) {
  return [&m](std::size_t r, std::size_t c) { return Sum{m.at(c, r), std::abs(m.at(c, r))}; };
}
auto of(const Sums& s) {
  return [&s](std::size_t r, std::size_t c) { return s[r][c]; };
}
auto turned_of(const Sums& s) {
  return [&s](std::size_t r, std::size_t c) { return s[c][r]; };
}

template <class T>
inline constexpr double unit = std::is_same_v<T, float> ? 0
                               : std::is_same_v<T, f16> ? 0x1p-11
                                                        : 0x1p-8;

/// The part of `result` from (row, col) on must be what it held plus `added`, within the header's bound for a product
/// of T over `depth`. Values here are far from where f16 has fewer digits, but for the rounded product over the rank:
/// 2⁻²⁵ of it times `other`, the largest sum of the other factor's magnitudes. What several products add to is rounded
/// to its type each time.
template <class T, class Y>
void expect_added(const Both<Y>& result, std::size_t row, std::size_t col, const Sums& added, std::size_t depth,
                  double other, const std::string& name, int roundings = 1) {
  const auto now = result.device.host();
  for (std::size_t r = 0; r < added.size(); ++r)
    for (std::size_t c = 0; c < added[r].size(); ++c) {
      const double before = result.at(row + r, col + c), exact = before + added[r][c].value;
      double bound = (unit<T> + 2.1 * static_cast<double>(depth + 4) * 0x1p-24) * added[r][c].size +
                     0x1p-23 * std::abs(before) + (std::is_same_v<T, f16> ? 0x1p-25 * other : 0);
      bound += unit<Y> * (roundings - 1) * (std::abs(before) + added[r][c].size);
      bound += unit<Y> * (std::abs(exact) + bound) + (std::is_same_v<Y, f16> ? 0x1p-25 : 0);
      const double actual =
          static_cast<double>(static_cast<float>(now[result.offset + (row + r) * result.cols + col + c]));
      ASSERT_NEAR(actual, exact, bound) << name << ": row " << row + r << ", column " << col + c;
    }
}

void run(const cuda::Context& context, const std::vector<LoraProduct>& products) {
  const Stream stream;
  const cuda::DeviceBuffer workspace(cuda::lora_workspace(products), context.allocator(), stream.get());
  expect_asynchronous(stream.get(), [&] { cuda::add_lora(context, products, workspace.span(), stream.get()); });
}

struct Projections {
  std::size_t n, in, r;
  std::vector<std::size_t> out;
  std::size_t offset;  ///< of x, in elements
};

/// q, k and v of one x into the columns of one y.
template <class T, class Y>
void check_projections(const cuda::Context& context, const Projections& p, const std::string& name) {
  std::size_t columns = 0;
  for (const std::size_t out : p.out) columns += out;
  const Both<T> x(p.n, p.in, 1, p.offset);
  const Both<Y> y(p.n, columns, 2);
  std::vector<std::unique_ptr<Both<T>>> a, b;
  std::vector<LoraProduct> products;
  std::size_t col = 0;
  for (const std::size_t out : p.out) {
    const auto seed = static_cast<unsigned>(10 + a.size());
    a.push_back(std::make_unique<Both<T>>(p.r, p.in, seed));
    b.push_back(std::make_unique<Both<T>>(out, p.r, seed + 100));
    products.push_back({x.all(), a.back()->all(), b.back()->all(), y.part(0, p.n, col, out), 0.25f});
    col += out;
  }
  run(context, products);
  col = 0;
  for (std::size_t i = 0; i < p.out.size(); ++i) {
    const Sums hidden = product(p.n, p.r, p.in, 1, element(x), turned(*a[i]));
    const Sums added = product(p.n, p.out[i], p.r, 0.25, of(hidden), turned(*b[i]));
    ASSERT_NO_FATAL_FAILURE((expect_added<T>(y, 0, col, added, p.in + p.r, 4 * static_cast<double>(p.r),
                                             name + ", projection " + std::to_string(i))));
    col += p.out[i];
  }
}

TEST(CudaLora, AddsProjectionsToAFusedResult) {
  power_on();
  const cuda::Context context;
  for (const Projections& p : {Projections{5, 40, 8, {24, 8, 16}, 0},
                               {1, 33, 3, {7, 5, 9}, 0},
                               {17, 64, 16, {32}, 0},
                               {3, 48, 8, {16, 16}, 1}}) {
    const std::string name = std::to_string(p.n) + " tokens, " + std::to_string(p.out.size()) + " projections";
    check_projections<float, float>(context, p, "f32, " + name);
    check_projections<f16, f16>(context, p, "f16, " + name);
    check_projections<bf16, bf16>(context, p, "bf16, " + name);
    check_projections<f16, float>(context, p, "f16 to f32, " + name);
    check_projections<bf16, float>(context, p, "bf16 to f32, " + name);
  }
  expect_clean();
}

TEST(CudaLora, IsTwoCallsOfCublasForAnyNumberOfAdapters) {
  power_on();
  const cuda::Context context;
  const std::size_t in = 16, r = 8, out = 24, adapters = 100;  // 300 addresses: more than one launch carries
  const Both<f16> x(2 * adapters, in, 3), y(2 * adapters, out, 4), a(adapters * r, in, 5), b(adapters * out, r, 6);
  std::vector<LoraProduct> products;
  for (std::size_t i = 0; i < adapters; ++i)
    products.push_back({x.part(2 * i, 2, 0, in), a.part(i * r, r, 0, in), b.part(i * out, out, 0, r),
                        y.part(2 * i, 2, 0, out), static_cast<float>(i)});
  run(context, products);
  expect_calls("cublasGemmGroupedBatchedEx", 2);
  expect_calls("cublasGemmEx", 0);
  for (std::size_t i = 0; i < adapters; ++i) {
    const auto rows = [i](const Both<f16>& m, std::size_t each) {
      return [&m, first = i * each](std::size_t row, std::size_t c) {
        return Sum{m.at(first + row, c), std::abs(m.at(first + row, c))};
      };
    };
    const auto x_i = rows(x, 2), a_i = rows(a, r), b_i = rows(b, out);
    const Sums hidden = product(2, r, in, 1, x_i, [&](auto k, auto c) { return a_i(c, k); });
    const Sums added =
        product(2, out, r, static_cast<double>(i), of(hidden), [&](auto k, auto c) { return b_i(c, k); });
    ASSERT_NO_FATAL_FAILURE((expect_added<f16>(y, 2 * i, 0, added, in + r, 100 * 4 * static_cast<double>(r),
                                               "adapter " + std::to_string(i))));
  }
  expect_clean();
}

TEST(CudaLora, AddsSeveralAdaptersToOneResult) {
  power_on();
  const cuda::Context context;
  const std::size_t n = 4, in = 32, r = 8, out = 16;
  const Both<float> x(n, in, 7), a(r, in, 8), b(out, r, 9), y(n, out, 10);
  std::vector<LoraProduct> products;
  for (const float scale : {0.5f, 2.0f, -0.125f}) products.push_back({x.all(), a.all(), b.all(), y.all(), scale});
  products.push_back({x.part(0, 2, 0, in), a.all(), b.all(), y.part(1, 2, 0, out), 1});  // other rows of the same y
  run(context, products);
  const Sums hidden = product(n, r, in, 1, element(x), turned(a));
  Sums added = product(n, out, r, 0.5 + 2 - 0.125, of(hidden), turned(b));
  const Sums shifted = product(2, out, r, 1, of(hidden), turned(b));
  for (std::size_t t = 0; t < n; ++t)
    for (std::size_t c = 0; c < out; ++c) {
      added[t][c].size *= (0.5 + 2 + 0.125) / (0.5 + 2 - 0.125);
      if (t == 1 || t == 2) added[t][c].add(shifted[t - 1][c].value, shifted[t - 1][c].size);
    }
  // y is rounded four times on the way.
  expect_added<float>(y, 0, 0, added, in + r + 8, 0, "four adapters");
  expect_clean();
}

template <class T, class G>
void check_gradients(const cuda::Context& context, std::size_t n, std::size_t in, std::size_t r,
                     const std::string& name) {
  const std::size_t out = 24;
  const double s = -0.5;
  const Both<T> x(n, in, 11), a0(r, in, 12), b0(out, r, 13), a1(r, in, 14), b1(out, r, 15), grad_y(n, 2 * out, 16);
  const Both<G> grad_x(n, in, 17), grad_a0(r, in, 18), grad_b0(out, r, 19), grad_a1(r, in, 20);
  const MutableDeviceMatrix none;
  // Two projections of one x, whose gradients meet; of the second, B is frozen.
  const std::vector<LoraGradient> gradients{
      {x.all(), a0.all(), b0.all(), -0.5f, grad_y.part(0, n, 0, out), grad_x.all(), grad_a0.all(), grad_b0.all()},
      {x.all(), a1.all(), b1.all(), -0.5f, grad_y.part(0, n, out, out), grad_x.all(), grad_a1.all(), none}};
  const cuda::DeviceBuffer workspace(cuda::lora_gradient_workspace(gradients), context.allocator(), nullptr);
  cuda::add_lora_gradients(context, gradients, workspace.span(), nullptr);
  const auto second = [&](std::size_t row, std::size_t c) {
    return Sum{grad_y.at(row, out + c), std::abs(grad_y.at(row, out + c))};
  };
  const double dn = static_cast<double>(n), dr = static_cast<double>(r);
  const Sums hidden = product(n, r, in, 1, element(x), turned(a0));
  const Sums d0 = product(n, r, out, s, element(grad_y), element(b0)), d1 = product(n, r, out, s, second, element(b1));
  const Sums to_b = product(out, r, n, s, turned(grad_y), of(hidden));
  ASSERT_NO_FATAL_FAILURE((expect_added<T>(grad_b0, 0, 0, to_b, in + n, 4 * dn, name + ": grad_b")));
  ASSERT_NO_FATAL_FAILURE((expect_added<T>(grad_a0, 0, 0, product(r, in, n, 1, turned_of(d0), element(x)), out + n,
                                           4 * dn, name + ": grad_a")));
  ASSERT_NO_FATAL_FAILURE((expect_added<T>(grad_a1, 0, 0, product(r, in, n, 1, turned_of(d1), element(x)), out + n,
                                           4 * dn, name + ": grad_a of the second")));
  Sums to_x = product(n, in, r, 1, of(d0), element(a0));
  const Sums more = product(n, in, r, 1, of(d1), element(a1));
  for (std::size_t t = 0; t < n; ++t)
    for (std::size_t c = 0; c < in; ++c) to_x[t][c].add(more[t][c].value, more[t][c].size);
  ASSERT_NO_FATAL_FAILURE((expect_added<T>(grad_x, 0, 0, to_x, out + r, 8 * dr, name + ": grad_x", 2)));
}

TEST(CudaLora, AddsTheGradientsOfAllOperands) {
  power_on();
  const cuda::Context context;
  for (const std::size_t n : {1u, 6u, 19u}) {
    const std::string name = std::to_string(n) + " tokens";
    check_gradients<float, float>(context, n, 40, 8, "f32, " + name);
    check_gradients<float, float>(context, n, 27, 5, "f32, ragged, " + name);
    check_gradients<bf16, bf16>(context, n, 40, 8, "bf16, " + name);
    check_gradients<bf16, float>(context, n, 27, 5, "bf16 to f32, " + name);
    check_gradients<f16, float>(context, n, 40, 8, "f16 to f32, " + name);
    check_gradients<f16, f16>(context, n, 27, 5, "f16, " + name);
  }
  expect_clean();
}

TEST(CudaLora, SaysWhichProductDoesNotFit) {
  power_on();
  const cuda::Context context;
  const Both<float> x(3, 16, 21), a(4, 16, 22), b(8, 4, 23), y(3, 8, 24);
  const Both<f16> half(4, 16, 25);
  const LoraProduct good{x.all(), a.all(), b.all(), y.all()};
  const cuda::DeviceBuffer workspace(cuda::lora_workspace(std::vector{good, good}), context.allocator(), nullptr);
  const auto add = [&](const LoraProduct& second, cuda::DeviceSpan space) {
    return
        [&context, products = std::vector{good, second}, space] { cuda::add_lora(context, products, space, nullptr); };
  };
  LoraProduct wrong = good;
  wrong.y = y.part(0, 2, 0, 8);
  expect_error(ErrorCode::shape_mismatch, "product 1: x is F32 [3, 16]", add(wrong, workspace.span()));
  wrong = good;
  wrong.b.stride = 3;
  expect_error(ErrorCode::shape_mismatch, "B is F32 [8, 4] with rows 3 apart", add(wrong, workspace.span()));
  wrong = good;
  wrong.a = half.all();
  expect_error(ErrorCode::unsupported, "A is F16 [4, 16]", add(wrong, workspace.span()));
  const cuda::DeviceSpan small{workspace.as<>(), workspace.size() - 1}, shifted{workspace.as<>() + 8, workspace.size()};
  expect_error(ErrorCode::invalid_argument, "are the least", add(good, small));
  expect_error(ErrorCode::invalid_argument, "not aligned to 256", add(good, shifted));
  EXPECT_EQ(y.device.host(), y.host);
  LoraGradient gradient{x.all(), a.all(), b.all(), 1, y.all(), x.all(), a.part(0, 3, 0, 16), b.all()};
  expect_error(ErrorCode::shape_mismatch, "grad_a is F32 [3, 16]",
               [&] { cuda::add_lora_gradients(context, std::vector{gradient}, workspace.span(), nullptr); });
  expect_calls("cublasGemmEx", 0);
  expect_clean();
}

TEST(CudaLora, SkipsWhatAddsNothing) {
  power_on();
  const cuda::Context context;
  const Both<float> x(3, 16, 26), a(4, 16, 27), b(8, 4, 28), y(3, 8, 29);
  const std::vector<LoraProduct> products{
      {x.part(0, 0, 0, 16), a.all(), b.all(), y.part(0, 0, 0, 8)},
      {x.all(), a.part(0, 0, 0, 16), {b.device.get(), DType::f32, 8, 0, 4}, y.all()}};
  run(context, products);
  cuda::add_lora(context, {}, {}, nullptr);
  EXPECT_EQ(y.device.host(), y.host);
  expect_calls("cublasGemmEx", 0);
  expect_clean();
}

}  // namespace
}  // namespace nibble
