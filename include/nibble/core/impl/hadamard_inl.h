// What core/hadamard.h declares.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string>

#include "nibble/core/error.h"
#include "nibble/core/hadamard.h"
#include "nibble/core/philox.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

/// q = p^k; k is 0 where q is no power of a prime.
struct PrimePower {
  std::size_t p = 0, k = 0;

  static PrimePower of(std::size_t q) {
    if (q < 2) return {};
    std::size_t p = 2;
    while (p * p <= q && q % p != 0) ++p;
    if (q % p != 0) p = q;
    std::size_t k = 0;
    for (; q % p == 0; q /= p) ++k;
    return q == 1 ? PrimePower{p, k} : PrimePower{};
  }
};

/// χ over the differences of GF(q). An element is a polynomial over the integers mod p of degree below k, written as
/// the number whose digits in base p are its coefficients.
class FiniteField {
 public:
  explicit FiniteField(std::size_t q) : q_(q), power_(PrimePower::of(q)), character_(q) {
    for (std::size_t tail = 0; tail < q; ++tail)
      if (is_primitive(tail)) return;
  }

  [[nodiscard]] std::int8_t character_of_difference(std::size_t a, std::size_t b) const {
    std::size_t difference = 0, place = 1;
    for (std::size_t i = 0; i < power_.k; ++i, place *= power_.p) {
      difference += (a % power_.p + power_.p - b % power_.p) % power_.p * place;
      a /= power_.p, b /= power_.p;
    }
    return character_[difference];
  }

 private:
  /// x·a modulo the polynomial x^k − tail.
  [[nodiscard]] std::size_t times_x(std::size_t a, std::size_t tail) const {
    const std::size_t p = power_.p, carry = a / (q_ / p);
    std::size_t shifted = a % (q_ / p) * p, out = 0;
    for (std::size_t place = 1; place < q_; place *= p) {
      out += (shifted % p + carry * (tail % p)) % p * place;
      shifted /= p, tail /= p;
    }
    return out;
  }

  /// Whether the powers of x modulo x^k − tail are all elements but 0, so that they have inverses and this is the
  /// field; then its squares are the even powers, and the character is filled in.
  bool is_primitive(std::size_t tail) {
    std::size_t a = 1;
    for (std::size_t exponent = 0; exponent + 1 < q_; ++exponent) {
      if (a == 0 || (a == 1 && exponent > 0)) return false;
      character_[a] = exponent % 2 == 0 ? 1 : -1;
      a = times_x(a, tail);
    }
    return a == 1;
  }

  std::size_t q_;
  PrimePower power_;
  std::vector<std::int8_t> character_;  ///< 0 at 0.
};

inline bool is_paley_one(std::size_t order) { return order % 4 == 0 && PrimePower::of(order - 1).k > 0; }
inline bool is_paley_two(std::size_t order) {
  return order % 4 == 0 && order / 2 % 4 == 2 && PrimePower::of(order / 2 - 1).k > 0;
}

/// [[0, 1ᵀ], [corner, Q]], of order q + 1.
inline std::vector<std::int8_t> bordered_characters(std::size_t q, std::int8_t corner) {
  const FiniteField field(q);
  const std::size_t n = q + 1;
  std::vector<std::int8_t> out(n * n);
  for (std::size_t i = 0; i < q; ++i) {
    out[i + 1] = 1;
    out[(i + 1) * n] = corner;
    for (std::size_t j = 0; j < q; ++j) out[(i + 1) * n + j + 1] = field.character_of_difference(i, j);
  }
  return out;
}

inline std::vector<std::int8_t> paley_one(std::size_t n) {
  std::vector<std::int8_t> out = bordered_characters(n - 1, -1);
  for (std::size_t i = 0; i < n; ++i) out[i * n + i] = 1;
  return out;
}

inline std::vector<std::int8_t> paley_two(std::size_t n) {
  const std::size_t half = n / 2;
  const std::vector<std::int8_t> c = bordered_characters(half - 1, 1);
  constexpr std::int8_t off[2][2] = {{1, 1}, {1, -1}}, diagonal[2][2] = {{1, -1}, {-1, -1}};
  std::vector<std::int8_t> out(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      const int entry = c[i / 2 * half + j / 2] * off[i % 2][j % 2];
      out[i * n + j] = static_cast<std::int8_t>(i / 2 == j / 2 ? diagonal[i % 2][j % 2] : entry);
    }
  return out;
}

inline std::vector<std::int8_t> hadamard_core(std::size_t order) {
  if (order == 1) return {1};
  return is_paley_one(order) ? paley_one(order) : paley_two(order);
}

inline std::size_t core_order_or_throw(std::size_t n) {
  if (const auto order = hadamard_core_order(n)) return *order;
  throw Error(ErrorCode::unsupported,
              "no Hadamard matrix of order " + std::to_string(n) +
                  " is constructible here: it is no power of two times an order of Paley's constructions (q + 1 or "
                  "2·(q + 1), q a power of a prime) up to " +
                  std::to_string(kLargestHadamardCore) + "; a block Hadamard needs only that it is even");
}

/// Before memory is touched.
inline void check_vectors(const MatrixView<double>& m, std::size_t size) {
  m.validate("the vectors to be rotated");
  if (m.rows == size && m.stride == m.cols) return;
  throw Error(ErrorCode::shape_mismatch, "a rotation of size " + std::to_string(size) + " is applied to a matrix of " +
                                             std::to_string(m.rows) + " × " + std::to_string(m.cols) +
                                             " with a stride of " + std::to_string(m.stride) +
                                             "; as many rows are needed, one behind the other");
}

inline std::size_t rotation_order(std::size_t size, bool block) {
  if (!block || hadamard_core_order(size)) return size;
  const std::size_t order = size & (~size + 1);  // the lowest bit
  if (order < 2)
    throw Error(ErrorCode::unsupported,
                "a block Hadamard of size " + std::to_string(size) + " has no blocks: the size must be even");
  return order;
}

/// The unnormalized Walsh–Hadamard transform along the first of [count, width].
inline void walsh_hadamard(double* x, std::size_t count, std::size_t width) {
  for (std::size_t half = 1; half < count; half *= 2)
    for (std::size_t first = 0; first < count; first += 2 * half) {
      double *a = x + first * width, *b = a + half * width;
      for (std::size_t i = 0; i < half * width; ++i) {
        const double sum = a[i] + b[i], difference = a[i] - b[i];
        a[i] = sum, b[i] = difference;
      }
    }
}

}  // namespace detail

NIBBLE_INLINE std::optional<std::size_t> hadamard_core_order(std::size_t n) {
  if (n == 0) return std::nullopt;
  const std::size_t odd = n >> std::countr_zero(n);
  if (odd == 1) return 1;
  for (std::size_t order = 4 * odd; order <= std::min(n, kLargestHadamardCore) && n % order == 0; order *= 2)
    if (detail::is_paley_one(order) || detail::is_paley_two(order)) return order;
  return std::nullopt;
}

NIBBLE_INLINE Hadamard::Hadamard(std::size_t order)
    : order_(order), core_order_(detail::core_order_or_throw(order)), core_(detail::hadamard_core(core_order_)) {}

NIBBLE_INLINE void Hadamard::apply_to_columns(MatrixView<double> m, std::vector<double>& scratch) const {
  detail::check_vectors(m, order_);
  const std::size_t count = order_ / core_order_, part = count * m.cols;
  for (std::size_t c = 0; c < core_order_; ++c) detail::walsh_hadamard(m.data + c * part, count, m.cols);
  if (core_order_ == 1) return;
  scratch.assign(m.data, m.data + core_order_ * part);
  for (std::size_t to = 0; to < core_order_; ++to) {
    double* out = m.data + to * part;
    std::fill_n(out, part, 0.0);
    for (std::size_t from = 0; from < core_order_; ++from) {
      const double sign = core_[from * core_order_ + to];
      const double* in = scratch.data() + from * part;
      for (std::size_t i = 0; i < part; ++i) out[i] += sign * in[i];
    }
  }
}

NIBBLE_INLINE RandomRotation::RandomRotation(std::size_t size, const RandomRotationOptions& o)
    : hadamard_(detail::rotation_order(size, o.block)) {
  signs_.resize(size);
  std::array<std::uint32_t, 4> words{};
  for (std::size_t i = 0; i < size; ++i) {
    if (i % 128 == 0) {
      const std::uint64_t counter = i / 128;
      words = philox(
          {static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32), o.stream, 0x524F5441u},
          {static_cast<std::uint32_t>(o.seed), static_cast<std::uint32_t>(o.seed >> 32)});
    }
    signs_[i] = (words[i / 32 % 4] >> i % 32 & 1u) != 0 ? -1 : 1;
  }
}

NIBBLE_INLINE void RandomRotation::apply_to_columns(MatrixView<double> m, std::vector<double>& scratch) const {
  detail::check_vectors(m, size());
  for (std::size_t r = 0; r < m.rows; ++r)
    for (double& x : m.row(r)) x *= signs_[r];
  for (std::size_t r = 0; r < m.rows; r += order()) hadamard_.apply_to_columns(m.row_range(r, order()), scratch);
  const double unit = 1 / std::sqrt(static_cast<double>(order()));
  for (std::size_t r = 0; r < m.rows; ++r)
    for (double& x : m.row(r)) x *= unit;
}

}  // namespace nibble::inline NIBBLE_ABI
