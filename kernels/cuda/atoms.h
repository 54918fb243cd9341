// The instructions that CUDA C++ has no name for, as small functions (PTX ISA 8.0; section names in quotes).
//
// Targets without an instruction get the same result from older ones where that is possible: sm_75 copies at once where
// newer targets copy asynchronously, and builds each matrix product from smaller ones. It has no bfloat16 product.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "nibble/core/abi.h"

#define NIBBLE_DEVICE __device__ __forceinline__
#define NIBBLE_KERNEL(max_threads, min_blocks) __global__ __launch_bounds__(max_threads, min_blocks)
#define NIBBLE_SHARED(T, name, n) __shared__ __align__(16) T name[n]
#define NIBBLE_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace nibble::inline NIBBLE_ABI::cuda {

NIBBLE_DEVICE std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// Loads four (two) 8×8 matrices of 16-bit elements from shared memory ("ldmatrix"). Lane 8·i + r names row r of matrix
/// i, 16 bytes, aligned to 16; r[i] gets the elements 2·(lane % 4), +1 of row lane / 4 of matrix i. _trans: of column
/// lane / 4. All lanes of the warp; _x2 reads the rows of lanes 0–15 only.
NIBBLE_DEVICE void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
NIBBLE_DEVICE void ldmatrix_x2(std::uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
NIBBLE_DEVICE void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/// c += a·b for a 16×16 matrix a, row by row, and a 16×8 matrix b, column by column, in float ("Matrix Fragments for
/// mma.m16n8k16 with floating point type"). The last argument tells what the elements are. All lanes of the warp.
NIBBLE_DEVICE void mma(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], half) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int k = 0; k < 2; ++k)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2 * k]), "r"(a[2 * k + 1]), "r"(b[k]));
#endif
}
/// Needs sm_80; traps on sm_75, where the host must not choose it.
NIBBLE_DEVICE void mma(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], __nv_bfloat16) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}
/// c += a·b for a 16×32 matrix and a 32×8 matrix of int8 ("Matrix Fragments for mma.m16n8k32"); sums wrap around. All
/// lanes of the warp.
NIBBLE_DEVICE void mma_s8(int (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int k = 0; k < 2; ++k)
#pragma unroll
    for (int half_of_rows = 0; half_of_rows < 2; ++half_of_rows)
      asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};\n"
                   : "+r"(c[2 * half_of_rows]), "+r"(c[2 * half_of_rows + 1])
                   : "r"(a[2 * k + half_of_rows]), "r"(b[k]));
#endif
}

/// Starts to copy 16 bytes from global to shared memory, past the L1 cache ("cp.async"); both aligned to 16. !pred:
/// writes zeros and does not read. Nobody may touch the target until the copying thread has waited for the copy's
/// group, and other threads not until a barrier after that. Has no form with a hint to the L2 cache: CUDA 13.0's ptxas
/// makes of it, where a part of the target's address is uniform, an instruction that sm_90 refuses as illegal.
NIBBLE_DEVICE void cp_async_16(void* dst, const void* src, bool pred = true) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  const int bytes = pred ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(dst)), "l"(src), "r"(bytes)
               : "memory");
#else
  *static_cast<uint4*>(dst) = pred ? __ldg(static_cast<const uint4*>(src)) : uint4{0, 0, 0, 0};
#endif
}
/// The copies started since the last commit become a group, an empty one if there are none.
NIBBLE_DEVICE void cp_async_commit() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}
/// Waits until at most the N newest groups of this thread are under way.
template <int N>
NIBBLE_DEVICE void cp_async_wait() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
#endif
}

/// Any function of three bits, bit by bit ("lop3"): LUT is the function of 0xf0, 0xcc and 0xaa.
template <int LUT>
NIBBLE_DEVICE std::uint32_t lop3(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, %4;\n" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(LUT));
  return d;
}

/// x, which the compiler keeps: what is cheap to compute it would compute anew in every iteration of a loop.
NIBBLE_DEVICE std::uint32_t in_register(std::uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}
NIBBLE_DEVICE std::uint64_t in_register(std::uint64_t x) {
  asm volatile("" : "+l"(x));
  return x;
}

/// Loads 16 bytes that nobody writes during the launch and nobody reads again; the L1 cache keeps no copy.
template <class T>
NIBBLE_DEVICE T load_stream(const T* p) {
  static_assert(sizeof(T) == 16 && alignof(T) == 16);
  union {
    std::uint32_t word[4];
    T value;
  } v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(p));
  return v.value;
}
/// Stores 16 bytes that nobody reads soon.
template <class T>
NIBBLE_DEVICE void store_stream(T* p, const T& value) {
  static_assert(sizeof(T) == 16 && alignof(T) == 16);
  union {
    T value;
    std::uint32_t word[4];
  } v{value};
  asm volatile("st.global.cs.v4.u32 [%0], {%1,%2,%3,%4};\n" ::"l"(p), "r"(v.word[0]), "r"(v.word[1]), "r"(v.word[2]),
               "r"(v.word[3])
               : "memory");
}

/// A flag between blocks: a thread whose load_acquire sees the sum may read what another wrote before its add_release.
NIBBLE_DEVICE int load_acquire(const int* p) {
  int value;
  asm volatile("ld.acquire.gpu.global.b32 %0, [%1];\n" : "=r"(value) : "l"(p) : "memory");
  return value;
}
NIBBLE_DEVICE void add_release(int* p, int value) {
  asm volatile("red.release.gpu.global.add.s32 [%0], %1;\n" ::"l"(p), "r"(value) : "memory");
}
/// Stands in the body of every loop that waits for another thread.
NIBBLE_DEVICE void spin_hint() { __nanosleep(20); }

namespace detail {

/// Parameters as the kernel's own types, and where each lies.
template <class... Parameters>
cudaError_t launch_with(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
                        cudaStream_t stream, Parameters... parameters) {
  void* where[] = {static_cast<void*>(&parameters)..., nullptr};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, where, shared_bytes, stream);
}

}  // namespace detail

/// Above the 48 KiB of dynamic shared memory that every kernel may have, it must be allowed so much.
inline cudaError_t allow_shared(const void* kernel, std::size_t bytes) {
  constexpr std::size_t always_allowed = 48 << 10;
  if (bytes <= always_allowed) return cudaSuccess;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

/// How many blocks of a kernel one multiprocessor of the current device runs at once.
template <class... Parameters>
cudaError_t resident_blocks(void (*kernel)(Parameters...), unsigned threads, std::size_t shared_bytes, int* blocks) {
  const void* const entry = reinterpret_cast<const void*>(kernel);
  cudaError_t status = allow_shared(entry, shared_bytes);
  if (status == cudaSuccess)
    status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, entry, static_cast<int>(threads), shared_bytes);
  if (status != cudaSuccess) (void)cudaGetLastError();
  return status;
}

/// Starts a kernel on the stream and returns at once. `shared_bytes`: its dynamic shared memory. A launch that fails
/// leaves no error behind for others.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
                   const Arguments&... arguments) {
  cudaError_t status = allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
  if (status == cudaSuccess)
    status = detail::launch_with<Parameters...>(kernel, grid, block, shared_bytes, stream,
                                                static_cast<Parameters>(arguments)...);
  if (status != cudaSuccess) (void)cudaGetLastError();
  return status;
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
