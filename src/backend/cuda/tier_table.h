// Up to how many tokens each tier of matmul() serves, by device and scheme: data, made by the command cuda_tier_table
// (bench/cuda), which says how.
#pragma once

#include <cstddef>
#include <span>

#include "nibble/matrix/quant_spec.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// Schemes whose products cost alike. `other` ones have no kernel on tensor cores, and so no choice.
enum class TierFamily { affine4, codebook4, other };

constexpr TierFamily tier_family(const QuantSpec& spec) {
  if (spec.bits != 4) return TierFamily::other;
  return spec.is_codebook() ? TierFamily::codebook4 : TierFamily::affine4;
}

/// The most tokens for which a tier is chosen, where it can serve: gemv, else tensor cores, else cuBLAS. Where there is
/// no choice (another layout, x in f32) the table is not asked.
struct TierLimits {
  std::size_t gemv = 0;
  std::size_t tensor_core = 0;
};

/// One line of the table: devices from a compute capability on, until the next one that is listed.
struct TierRow {
  int compute_capability;
  TierFamily family;
  TierLimits limits;
};
std::span<const TierRow> tier_table();

/// Those of the newest listed device that is not newer than this one; none for a family that is not listed.
TierLimits tier_limits(int compute_capability, TierFamily family);

}  // namespace nibble::inline NIBBLE_ABI::cuda
