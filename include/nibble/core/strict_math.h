// Refuses the compiler flags under which floating-point results would change: what a header computes in a program that
// includes it must be, bit for bit, what the compiled library computes.
//
// Contraction (-ffp-contract, -mfma) and vectorisation change nothing, by how the arithmetic is written. What changes
// results is leave to treat floats as real numbers: -ffast-math, and those of its parts that compilers tell of
// (-fassociative-math, -freciprocal-math, -fno-signed-zeros, -ffinite-math-only), and intermediate results in a wider
// type (the x87 unit). No header can see that another unit, linked with -ffast-math, makes the processor flush
// subnormal numbers to zero (GCC before version 13 did so); do not link with it.
#pragma once

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "nibble: -ffast-math, or a part of it, would change results; compile the units that include nibble without it"
#endif
#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2)
#error "nibble: floats computed in a wider type would change results; compile with -msse2 -mfpmath=sse"
#endif
