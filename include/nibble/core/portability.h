// The few macros the library needs. All arithmetic of a scheme is usable from CUDA device code.
#pragma once

#if defined(__CUDACC__)
#define NIBBLE_HD __host__ __device__
#else
#define NIBBLE_HD
#endif
