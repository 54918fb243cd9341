// Products that stay products: no flag of a program's makes one of them and the addition it goes into a fused
// multiply-add, which would round once where the library's bits were rounded twice.
//
//   const RoundedProduct<float> times;
//   sum += times(a, b);
//
// The compiled library is built with -ffp-contract=off, and a·b is a·b. A program that has the definitions by headers
// alone is compiled with flags of its own, and neither a pragma nor a function around the product keeps GCC or clang
// from fusing where those say so. What nothing fuses any further is a fused multiply-add itself: fma(a, b, −0) is a·b,
// rounded once, with its sign, as long as the compiler does not know the −0.
#pragma once

#include <type_traits>

#include "nibble/core/abi.h"
#include "nibble/core/portability.h"
#include "nibble/core/strict_math.h"

#if defined(NIBBLE_HEADER_ONLY) && (defined(__FMA__) || defined(__FMA4__) || defined(__AVX512F__) || \
                                    defined(__aarch64__) || defined(__riscv) || defined(__powerpc__))
#define NIBBLE_MAY_FUSE 1
#else
#define NIBBLE_MAY_FUSE 0
#endif

namespace nibble::inline NIBBLE_ABI {

/// Made outside loops, so that they are vectorised as before. T is float or double.
template <class T>
class RoundedProduct {
 public:
  NIBBLE_HD constexpr RoundedProduct() {
#if NIBBLE_MAY_FUSE
    if (!std::is_constant_evaluated()) hide(minus_zero_);
#endif
  }
  NIBBLE_HD constexpr T operator()(T a, T b) const {
#if NIBBLE_MAY_FUSE
    if (!std::is_constant_evaluated()) {
      if constexpr (sizeof(T) == sizeof(float)) return __builtin_fmaf(a, b, minus_zero_);
      else return __builtin_fma(a, b, minus_zero_);
    }
#endif
    return a * b;
  }

#if NIBBLE_MAY_FUSE
 private:
  static void hide(T& x) {
#if defined(__x86_64__) || defined(__i386__)
    asm("" : "+x"(x));
#elif defined(__aarch64__)
    asm("" : "+w"(x));
#else
    asm("" : "+m"(x));
#endif
  }
  T minus_zero_ = -T(0);
#endif
};

}  // namespace nibble::inline NIBBLE_ABI
