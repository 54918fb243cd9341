// The kernel of dequantize.h. One for each width of codes, decoder family and result type.
#pragma once

#include "kernels/cuda/canonical.cuh"

namespace nibble::cuda {

/// A block is 32 runs of eight columns by 8 rows.
inline constexpr unsigned kDequantizeRuns = 32;
inline constexpr unsigned kDequantizeRows = 8;

/// Decodes one run of n columns of a row into `values`. `codebook` is the table in shared memory, or null for affine.
template <int Bits, bool IsCodebook>
NIBBLE_DEVICE void decode_run(const CanonicalMatrix& q, const GroupMap& groups, std::size_t row, std::size_t col, int n,
                              const float* codebook, float (&values)[kRun]) {
  const std::uint64_t word = load_codes<Bits>(q.codes + row * q.pitch + col / kRun * static_cast<std::size_t>(Bits), n);
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
#if NIBBLE_MUTANT == 10
      if (next > group + 1) {
#else
      if (next != group) {
#endif
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
#if NIBBLE_MUTANT != 11
    __syncthreads();
#endif
  }
  const std::size_t row = std::size_t{blockIdx.x} * kDequantizeRows + threadIdx.y;
  if (row >= rows) return;
  const std::size_t step = std::size_t{gridDim.y} * kDequantizeRuns * kRun;
  for (std::size_t col = (std::size_t{blockIdx.y} * kDequantizeRuns + threadIdx.x) * kRun; col < q.cols; col += step) {
#if NIBBLE_MUTANT == 12
    const int n = kRun;
#else
    const int n = q.cols - col < kRun ? static_cast<int>(q.cols - col) : kRun;
#endif
    float values[kRun];
    decode_run<Bits, IsCodebook>(q, groups, first_row + row, col, n, codebook, values);
    store_run(out + row * stride + col, n, values);
  }
}

}  // namespace nibble::cuda
