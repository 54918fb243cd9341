// Activations as the kernels of one packed matrix take them: columns in its order and padded to its words, in fixed
// point where its codes are integers, or rounded to 8 bits where it multiplies those.
#pragma once

#include <cstdint>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/backend/impl/cpu_matrix.h"

namespace nibble::inline NIBBLE_ABI {

/// How a matrix meets its activations: fp32 is for codebooks and dense weights, fixed for fp32 with integer codes.
enum class InputKind { fp32, fixed, int8, int8_group, llm_int8 };

/// What `w` does when `asked`: 8 bits only where it can be multiplied by them; LLM.int8 weights always their own way.
InputKind input_kind(const CpuMatrix& w, Activations asked);

/// Buffers grow to the largest call and stay, so that a call allocates nothing once warm.
struct CpuInput {
  InputKind kind = InputKind::fp32;
  MatrixView<const float> x;  ///< Columns in packed order, padded; the caller's own where they are so already.
  std::vector<float> copy;    ///< What x points to where they were not.

  std::vector<std::int8_t> codes;        ///< [token][depth]; fixed: [token] of encode_fixed's digits
  std::vector<std::int32_t> sums;        ///< [token][group] of codes; fixed: [token][chunk][3]
  std::vector<float> totals;             ///< fixed: [token][chunk] of the activations in fixed point
  std::vector<float> token_scale;        ///< absmax/127 of a token
  std::vector<float> group_scale;        ///< int8_group: [token][group], and token_scale is 1; fixed: [token][chunk]
  std::vector<std::uint8_t> is_outlier;  ///< LLM.int8: a flag per packed column
  std::vector<std::size_t> outlier_columns;
  std::vector<float> outliers;         ///< [token][outlier column], fp32
  std::size_t chunks = 0, stride = 0;  ///< fixed: chunks and bytes of digits of a token

  /// The fixed-point tokens [first, …) of a matrix whose chunks are `layout`.
  [[nodiscard]] kernels::FixedTokens fixed_tokens(const kernels::ChunkLayout& layout, std::size_t first) const {
    return {codes.data() + first * stride,
            stride,
            sums.data() + first * chunks * 3,
            totals.data() + first * chunks,
            group_scale.data() + first * chunks,
            chunks,
            layout};
  }

  /// Error{non_finite} names the first place of x that 8 bits cannot hold.
  void prepare(const kernels::KernelTable& isa, const CpuMatrix& w, MatrixView<const float> from, InputKind how,
               Executor& executor);

 private:
  void arrange(const CpuMatrix& w, MatrixView<const float> from);
  void take_outliers(const kernels::KernelTable& isa, float threshold, MatrixView<const float> from,
                     const InterleavedMatrix& w);
  void fix(const kernels::KernelTable& isa, const InterleavedMatrix& w, Executor& executor);
  void round_token(const kernels::KernelTable& isa, const InterleavedMatrix& w, std::size_t t);
};

/// Whether one CpuInput serves both matrices.
bool share_input(const CpuMatrix& a, const CpuMatrix& b);

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/backend/impl/cpu_input_inl.h"
#endif
