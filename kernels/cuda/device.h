// What kernel code may use: the CUDA language and the few instructions beyond it, under names that have two meanings.
//
// nvcc takes them from the language itself and from the atoms.h beside this file (inline PTX). A host compiler takes
// them from an emulation, whose own kernels/cuda/atoms.h comes first on the include path: there each CUDA thread is a
// fiber, and every rule of the model that can be checked is. A kernel's body is the same text in both: it lies in a
// .cuh, in namespace nibble::cuda, and writes nothing that is not listed here:
//
//   NIBBLE_DEVICE                          a device function, inlined
//   NIBBLE_KERNEL(max_threads, min_blocks) a kernel: at most so many threads a block, at least so many blocks on one SM
//   NIBBLE_SHARED(T, name, n)              an array in shared memory
//   NIBBLE_DYNAMIC_SHARED(name)            the launch's shared bytes (unsigned char*, aligned to 128)
//   threadIdx … gridDim, __syncthreads, __syncwarp, __shfl_*_sync, votes, atomics, __dp4a, __byte_perm, __ldg, and the
//   arithmetic of cuda_fp16.h and cuda_bf16.h
//   the atoms of atoms.h, launch() and resident_blocks()
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/atoms.h"
