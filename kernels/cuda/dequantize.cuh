// The kernel of dequantize.h. One for each width of codes, decoder family and result type.
#pragma once

#include "kernels/cuda/canonical.cuh"
#include "kernels/cuda/gemm_layout.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// A block is 32 runs of eight columns by 8 rows.
inline constexpr unsigned kDequantizeRuns = 32;
inline constexpr unsigned kDequantizeRows = 8;

/// load_codes for n codes of a row from column `col` on, where they lie in the order of the tensor-core kernels.
template <int Bits, bool IsCodebook>
NIBBLE_DEVICE std::uint64_t gather_codes(const CanonicalMatrix& q, std::size_t row, std::size_t col, int n) {
  static_assert(Bits == 4 || Bits == 8);
  std::uint64_t word = 0;
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    if (i >= n) continue;
    std::size_t k = col + static_cast<unsigned>(i);
    if (q.tensor_places != nullptr) k = static_cast<std::size_t>(__ldg(q.tensor_places + k));
    const CodePlace at = Bits == 4 ? PackedLayout{q.rows, q.cols, IsCodebook}.place(row, k)
                                   : PackedInt8Layout{q.rows, q.cols}.place(row, k);
    const std::uint32_t code = __ldg(q.tensor_codes + at.word) >> at.shift & ((1u << Bits) - 1u);
    word |= static_cast<std::uint64_t>(Bits == 8 ? code ^ 0x80u : code) << (i * Bits);  // there, 8 bits are signed
  }
  return word;
}

/// The codes of one run, wherever they lie.
template <int Bits, bool IsCodebook>
NIBBLE_DEVICE std::uint64_t codes_of_run(const CanonicalMatrix& q, std::size_t row, std::size_t col, int n) {
  if constexpr (Bits == 4 || (Bits == 8 && !IsCodebook))
    if (q.codes == nullptr) return gather_codes<Bits, IsCodebook>(q, row, col, n);
  return load_codes<Bits>(q.codes + row * q.pitch + col / kRun * static_cast<std::size_t>(Bits), n);
}

/// Decodes one run of n columns of a row into `values`. `codebook` is the table in shared memory, or null for affine.
template <int Bits, bool IsCodebook>
NIBBLE_DEVICE void decode_run(const CanonicalMatrix& q, const GroupMap& groups, std::size_t row, std::size_t col, int n,
                              const float* codebook, float (&values)[kRun]) {
  const std::uint64_t word = codes_of_run<Bits, IsCodebook>(q, row, col, n);
  const bool uniform = share_group(groups, row, col, n);
  std::size_t group = group_of(groups, row, col);
  float scale = multiplier_of(q, group);
  std::int32_t zero_point = IsCodebook ? 0 : zero_point_of(q, group);
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    values[i] = 0;
    if (i >= n) continue;
    if (!uniform && i > 0) {
      const std::size_t next = group_of(groups, row, col + static_cast<std::size_t>(i));
      if (next != group) {
        group = next;
        scale = multiplier_of(q, group);
        zero_point = IsCodebook ? 0 : zero_point_of(q, group);
      }
    }
    const std::uint8_t code = code_at<Bits>(word, i);
    if constexpr (IsCodebook) values[i] = codebook[code] * scale;
    else values[i] = affine_decode(code, {scale, zero_point});
  }
}

template <int Bits, bool IsCodebook, class Out>
NIBBLE_KERNEL(kDequantizeRuns* kDequantizeRows, 4)
void dequantize_kernel(CanonicalMatrix q, GroupMap groups, std::size_t first_row, Out* out, std::size_t rows,
                       std::size_t stride) {
  NIBBLE_SHARED(float, codebook, IsCodebook ? 1 << Bits : 1);
  if constexpr (IsCodebook) {
    const unsigned thread = threadIdx.y * kDequantizeRuns + threadIdx.x;
    if (thread < (1u << Bits)) codebook[thread] = __ldg(q.codebook + thread);
    __syncthreads();
  }
  const std::size_t row = std::size_t{blockIdx.x} * kDequantizeRows + threadIdx.y;
  if (row >= rows) return;
  const std::size_t step = std::size_t{gridDim.y} * kDequantizeRuns * kRun;
  for (std::size_t col = (std::size_t{blockIdx.y} * kDequantizeRuns + threadIdx.x) * kRun; col < q.cols; col += step) {
    const int n = q.cols - col < kRun ? static_cast<int>(q.cols - col) : kRun;
    float values[kRun];
    decode_run<Bits, IsCodebook>(q, groups, first_row + row, col, n, codebook, values);
    store_run(out + row * stride + col, n, values);
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
