// Forms (integer_products.h) for units without a byte product of four into 32 bits: AVX2.
//
// Codes below 16 by signed bytes: two products of at most 15·128 fit 16 bits, and so do the sums of eight such pairs,
// which are widened to 32 bits once in 32 columns. Pairs of codes of 5 to 7 bits fit 16 bits, their sums do not. Codes
// of 8 bits would overflow; they are taken as 16-bit integers, two columns at a time, and 24-bit activations as two
// digits of 12 bits.

#include "nibble/backend/impl/cpu/generic/code_words.h"
#include "nibble/backend/impl/cpu/generic/fixed_bytes.h"

template <int Bits, size_t Digits>
struct PairForm {
  static constexpr int bits = Bits;
  static constexpr size_t digits = Digits, bytes_per_column = Digits;
  static constexpr size_t splits = 1;
  static constexpr size_t run_columns = Bits <= 4 ? 32 : 0;

  template <size_t Split>
  static inline vec::I codes(vec::I bytes) {
    return bytes;
  }
  static inline vec::I add(vec::I sum, vec::I codes, vec::I x) {
    if constexpr (run_columns == 0) return vec::dot4_small(sum, codes, x);
    else return vec::add_pairs(sum, codes, x);
  }
  static inline vec::I widen(vec::I sum, vec::I pairs) { return vec::widen_pairs(sum, pairs); }
};

/// Bytes and 8-bit activations: dot4 as it is.
template <int Bits, size_t Digits>
struct WholeForm {
  static constexpr int bits = Bits;
  static constexpr size_t digits = Digits, bytes_per_column = Digits, splits = 1, run_columns = 0;
  template <size_t Split>
  static inline vec::I codes(vec::I bytes) {
    return bytes;
  }
  static inline vec::I add(vec::I sum, vec::I codes, vec::I x) { return vec::dot4(sum, codes, x); }
  static inline vec::I widen(vec::I sum, vec::I) { return sum; }
};
template <size_t Digits>
struct PairForm<8, Digits> : WholeForm<8, Digits> {};
template <size_t Digits>
struct PairForm<kTableBits, Digits> : WholeForm<kTableBits, Digits> {};

/// q = d1·4096 + d0, signed digits of 12 bits in 16, as [columns/4][columns 0, 2 | columns 1, 3][digit][2].
template <int Bits>
struct FixedWords {
  static constexpr int bits = Bits;
  static constexpr size_t digits = 2, bytes_per_column = 4, splits = 2, run_columns = 0;

  template <size_t Split>
  static inline vec::I codes(vec::I bytes) {
    return vec::and_int(vec::shift_right<8 * Split>(bytes), vec::set_int(0x00FF00FF));
  }
  static inline vec::I add(vec::I sum, vec::I codes, vec::I x) { return vec::dot2(sum, codes, x); }
  static inline vec::I widen(vec::I sum, vec::I) { return sum; }

  static inline void split(vec::I q, size_t column, char* to, vec::I (&sums)[2]) {
    const vec::I biased = vec::add_int(q, vec::set_int(0x800800));  // 12-bit digits plus 2048
    const vec::I digit[2] = {vec::and_int(biased, vec::set_int(0xFFF)), vec::shift_right<12>(biased)};
    for (size_t d = 0; d < 2; ++d) {
      const vec::I value = vec::add_int(digit[d], vec::set_int(-2048));
      sums[d] = vec::add_int(sums[d], value);
      int32_t values[vec::lanes];
      vec::store_int(values, value);
      for (size_t j = 0; j < vec::lanes; ++j) {
        const size_t k = column + j;
        const auto narrow = static_cast<int16_t>(values[j]);
        __builtin_memcpy(to + k / 4 * 16 + k % 2 * 8 + d * 4 + k % 4 / 2 * 2, &narrow, sizeof narrow);
      }
    }
  }
  static inline vec::I begin(vec::I minus_zero, int32_t digits) {
    return vec::mul_int(minus_zero, vec::set_int(digits));
  }
  /// RN(Σ) of a chunk of at most 128 columns: 16 bits below, and what is above them fits 24.
  static inline vec::F round(const vec::I (&sum)[2], size_t) {
    const vec::I middle = vec::add_int(sum[1], vec::shift_right_signed<12>(sum[0]));
    const vec::I low = vec::add_int(vec::and_int(sum[0], vec::set_int(0xFFF)),
                                    vec::shift_left<12>(vec::and_int(middle, vec::set_int(15))));
    return vec::fma(vec::to_float(vec::shift_right_signed<4>(middle)), vec::set(65536.0f), vec::to_float(low));
  }
};

template <int Bits, size_t Digits>
using IntegerForm = PairForm<Bits, Digits>;

template <int Bits>
struct FixedFormOf {
  using type = FixedBytes<IntegerForm<Bits, 3>>;
};
template <>
struct FixedFormOf<8> {
  using type = FixedWords<8>;
};
template <>
struct FixedFormOf<kTableBits> {
  using type = FixedWords<kTableBits>;
};
template <int Bits>
using FixedForm = typename FixedFormOf<Bits>::type;
