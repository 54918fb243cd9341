// The few macros the library needs.
#pragma once

/// Marks what CUDA device code can call: all arithmetic of a scheme.
#if defined(__CUDACC__)
#define NIBBLE_HD __host__ __device__
#else
#define NIBBLE_HD
#endif

/// Whether functions that throw nibble::Error exist: not with -fno-exceptions, where the headers that need none (those
/// of nibble.h) can be used all the same.
#if defined(__cpp_exceptions) || defined(__CUDACC__)
#define NIBBLE_EXCEPTIONS 1
#else
#define NIBBLE_EXCEPTIONS 0
#endif
