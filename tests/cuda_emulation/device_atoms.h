// The atoms of kernels/cuda/atoms.h, where each is described.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda_emulation/machine.h"
#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace detail {

/// Register i of a matrix load: from matrix i, whose rows lanes 8·i … 8·i + 7 named. The rows are read here: this is
/// inlined into the kernel, where the sanitizers look.
template <int Matrices>
inline void load_matrices(std::uint32_t (&r)[Matrices], const void* row, bool transposed, cuda_emulation::Site site) {
  using cuda_emulation::Contributions;
  const unsigned lane = cuda_emulation::lane();
  if (lane < 8 * Matrices) cuda_emulation::require_shared_16(row, "a matrix load's row", site);
  const Contributions rows =
      cuda_emulation::meet(cuda_emulation::Collective::matrix_load, 0xffffffffu, &row, sizeof row, site);
  if (lane == 0) cuda_emulation::count_matrix_load(rows, Matrices);
  const auto element = [&](unsigned matrix, unsigned at_row, unsigned col) {
    std::uint16_t bits;
    std::memcpy(&bits, rows.of<const unsigned char*>(8 * matrix + at_row) + 2 * col, sizeof bits);
    return std::uint32_t{bits};
  };
  const unsigned line = lane / 4, pair = lane % 4 * 2;
  for (unsigned i = 0; i < Matrices; ++i)
    r[i] = transposed ? element(i, pair, line) | element(i, pair + 1, line) << 16
                      : element(i, line, pair) | element(i, line, pair + 1) << 16;
}

inline cuda_emulation::Contributions exchange_fragments(const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                                        cuda_emulation::Site site) {
  const cuda_emulation::Fragments mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  return cuda_emulation::meet(cuda_emulation::Collective::matrix_product, 0xffffffffu, &mine, sizeof mine, site);
}

inline void start_copy(void* dst, const void* src, bool pred, cuda_emulation::Site site) {
  using cuda_emulation::Sixteen;
  cuda_emulation::require_shared_16(dst, "an asynchronous copy's target", site);
  if (pred && reinterpret_cast<std::uintptr_t>(src) % 16 != 0)
    cuda_emulation::fail("an asynchronous copy's source is not aligned to 16 bytes", site);
  Sixteen data{};
  if (pred) data = *static_cast<const Sixteen*>(src);
  // From now until the wait the copy may write: nobody may count on the bytes.
  *static_cast<Sixteen*>(dst) = ~Sixteen{};
  cuda_emulation::begin_copy({dst, {data[0], data[1], data[2], data[3]}});
}

}  // namespace detail

inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row,
                        cuda_emulation::Site site = cuda_emulation::Site::here()) {
  detail::load_matrices(r, row, false, site);
}
inline void ldmatrix_x2(std::uint32_t (&r)[2], const void* row,
                        cuda_emulation::Site site = cuda_emulation::Site::here()) {
  detail::load_matrices(r, row, false, site);
}
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row,
                              cuda_emulation::Site site = cuda_emulation::Site::here()) {
  detail::load_matrices(r, row, true, site);
}

inline void mma(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], half,
                cuda_emulation::Site site = cuda_emulation::Site::here()) {
  cuda_emulation::multiply_half(c, detail::exchange_fragments(a, b, site), cuda_emulation::lane());
}
inline void mma(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], __nv_bfloat16,
                cuda_emulation::Site site = cuda_emulation::Site::here()) {
  cuda_emulation::multiply_bfloat16(c, detail::exchange_fragments(a, b, site), cuda_emulation::lane());
}
inline void mma_s8(int (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                   cuda_emulation::Site site = cuda_emulation::Site::here()) {
  cuda_emulation::multiply_int8(c, detail::exchange_fragments(a, b, site), cuda_emulation::lane());
}

inline void cp_async_16(void* dst, const void* src, bool pred = true,
                        cuda_emulation::Site site = cuda_emulation::Site::here()) {
  detail::start_copy(dst, src, pred, site);
}
inline void cp_async_commit() { cuda_emulation::commit_copies(); }
template <int N>
void cp_async_wait() {
  using cuda_emulation::Sixteen;
  for (cuda_emulation::Copy copy; cuda_emulation::next_finished_copy(N, copy);)
    *static_cast<Sixteen*>(copy.target) = Sixteen{copy.data[0], copy.data[1], copy.data[2], copy.data[3]};
}

template <int LUT>
constexpr std::uint32_t lop3(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t d = 0;
  for (unsigned i = 0; i < 8; ++i)  // i: one value of the three bits
    if ((LUT >> i & 1) != 0) d |= ((i & 4) != 0 ? a : ~a) & ((i & 2) != 0 ? b : ~b) & ((i & 1) != 0 ? c : ~c);
  return d;
}

constexpr std::uint32_t in_register(std::uint32_t x) { return x; }
constexpr std::uint64_t in_register(std::uint64_t x) { return x; }

template <class T>
T load_stream(const T* p) {
  static_assert(sizeof(T) == 16 && alignof(T) == 16);
  return *p;
}
template <class T>
void store_stream(T* p, const T& value) {
  static_assert(sizeof(T) == 16 && alignof(T) == 16);
  *p = value;
}

inline int load_acquire(const int* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
inline void add_release(int* p, int value) { __atomic_fetch_add(p, value, __ATOMIC_RELEASE); }
inline void spin_hint(cuda_emulation::Site site = cuda_emulation::Site::here()) { cuda_emulation::spin(site); }

}  // namespace nibble::inline NIBBLE_ABI::cuda
