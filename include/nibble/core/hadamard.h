// Hadamard matrices of the sizes that models have, and the random rotations that are made of them.
//
//   const nibble::RandomRotation r(576, {.seed = 1, .stream = 0});   // Q, 576 × 576, orthogonal
//   r.apply(row);                                                     // row·Q, in place
//
// A Hadamard matrix H of order n has entries ±1 and H·Hᵀ = n·I. Sylvester's construction gives the powers of two;
// models are 576, 3584 or 11008 wide. n = 2ᵏ·K is made as H_K ⊗ H_2ᵏ with a core H_K by Paley's constructions:
//
//   I   q ≡ 3 (mod 4) a power of a prime, of order q + 1:    I + S, S = [[0, 1ᵀ], [−1, Q]]
//   II  q ≡ 1 (mod 4) a power of a prime, of order 2(q + 1): C ⊗ [[1, 1], [1, −1]] + I ⊗ [[1, −1], [−1, −1]],
//       C = [[0, 1ᵀ], [1, Q]]
//
// where Q[i, j] = χ(a_i − a_j) for the elements a of GF(q), and χ is 1 for squares, −1 for others and 0 for 0. There
// are no tables: K is the smallest order that either gives. So Q is not what a program with a table of matrices
// makes of the same seed; nothing has to, since a rotation lies in the weights it was folded into.
//
// Source: Paley 1933, "On orthogonal matrices"; Ashkboos et al. 2024, "QuaRot: Outlier-free 4-bit inference in rotated
// LLMs", section 3 (H_K ⊗ H_2ᵏ, random signs).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "nibble/core/abi.h"
#include "nibble/core/matrix_view.h"

namespace nibble::inline NIBBLE_ABI {

/// No core is larger: one is stored whole, a byte an entry, and applying it costs its order for each value.
inline constexpr std::size_t kLargestHadamardCore = 4096;

/// The order of the core that hadamard_core() gives n: 1 for a power of two, 36 for 576. Nothing where n is not 2ᵏ
/// times an order that Paley's constructions give, up to kLargestHadamardCore: of odd n but 1, of 6, of 92 = 4·23.
std::optional<std::size_t> hadamard_core_order(std::size_t n);

/// H of one order, which is applied in n·(k + K) additions a vector and never stored.
class Hadamard {
 public:
  /// Error{unsupported} names an order that is not constructible. 1 is: H = [1].
  explicit Hadamard(std::size_t order);

  [[nodiscard]] std::size_t order() const { return order_; }
  [[nodiscard]] std::size_t core_order() const { return core_order_; }  ///< K
  /// H_K, row by row, of entries ±1.
  [[nodiscard]] std::span<const std::int8_t> core() const { return core_; }

  /// Each column of m, [order, any], as a row vector times H: column·H, in place. The sum is not divided by anything.
  /// `scratch` grows to the size of m where K > 1, and may be used again. Error{shape_mismatch} for another number of
  /// rows, or rows that do not lie one behind the other (stride ≠ cols). The order of additions is fixed by H alone.
  void apply_to_columns(MatrixView<double> m, std::vector<double>& scratch) const;

 private:
  std::size_t order_, core_order_;
  std::vector<std::int8_t> core_;
};

struct RandomRotationOptions {
  std::uint64_t seed = 0;
  std::uint32_t stream = 0;  ///< Of one seed each stream has signs of its own.
  /// Where the size is no order that is constructible: a matrix of blocks along its diagonal, each of the largest power
  /// of two that divides the size, in place of an error.
  bool block = false;
};

/// Q = D·H/√n, D a diagonal of random signs: an orthogonal matrix, which spreads what lies in one coordinate over all
/// of them. A function of the size, the seed and the stream alone: sign i is bit i mod 32 of word (i/32) mod 4 of
/// philox({i/128, its high half, stream, 0x524F5441}, the halves of the seed), low half first; 1 is minus.
class RandomRotation {
 public:
  /// Error{unsupported} names a size that has no constructible order; with `block`, one that is odd.
  RandomRotation(std::size_t size, const RandomRotationOptions& options);

  [[nodiscard]] std::size_t size() const { return signs_.size(); }
  /// The order of the Hadamard matrix: size(), or that of a block.
  [[nodiscard]] std::size_t order() const { return hadamard_.order(); }

  /// Each column of m, [size, any]: column·Q, in place. For the weight W of a layer whose output is to be rotated:
  /// y·Q = x·(Qᵀ·W)ᵀ, and Qᵀ·W is this of W. Otherwise as Hadamard::apply_to_columns.
  void apply_to_columns(MatrixView<double> m, std::vector<double>& scratch) const;
  /// v·Q, in place. For a row of the weight of a layer that is to take rotated inputs.
  void apply(std::span<double> v, std::vector<double>& scratch) const {
    apply_to_columns({v.data(), v.size(), 1}, scratch);
  }

 private:
  std::vector<double> signs_;  ///< ±1
  Hadamard hadamard_;
};

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/core/impl/hadamard_inl.h"
#endif
