// Forms (integer_products.h) for units whose dot4 is about as cheap as any: a signed byte for each column and digit.

#include "nibble/backend/impl/cpu/generic/code_words.h"
#include "nibble/backend/impl/cpu/generic/fixed_bytes.h"

/// Activations as [columns/4][digit][4 bytes].
template <int Bits, size_t Digits>
struct ByteForm {
  static constexpr int bits = Bits;
  static constexpr size_t digits = Digits, bytes_per_column = Digits;
  static constexpr size_t splits = 1;       ///< What a part is multiplied in.
  static constexpr size_t run_columns = 0;  ///< Sums grow to their end without a stop.

  /// What is multiplied of a part's bytes.
  template <size_t Split>
  static inline vec::I codes(vec::I bytes) {
    return bytes;
  }
  /// dot4 takes unsigned by signed bytes; dot4_small is for codes below 128.
  static inline vec::I add(vec::I sum, vec::I codes, vec::I x) {
    if constexpr (are_bytes(Bits)) return vec::dot4(sum, codes, x);
    else return vec::dot4_small(sum, codes, x);
  }
  static inline vec::I widen(vec::I sum, vec::I) { return sum; }
};

template <int Bits, size_t Digits>
using IntegerForm = ByteForm<Bits, Digits>;
template <int Bits>
using FixedForm = FixedBytes<IntegerForm<Bits, 3>>;
