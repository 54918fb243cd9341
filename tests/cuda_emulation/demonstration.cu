// The demonstration kernels for nvcc, whose PTX the same test runs.
#include "tests/cuda_emulation/demonstration.cuh"
