#include "backend/cuda/tier_table.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

constexpr TierRow kTable[] = {
#include "backend/cuda/tier_table.inc"
};

}  // namespace

std::span<const TierRow> tier_table() { return kTable; }

TierLimits tier_limits(int compute_capability, TierFamily family) {
  TierLimits limits;
  int newest = 0;
  for (const TierRow& row : kTable)
    if (row.family == family && row.compute_capability <= compute_capability && row.compute_capability >= newest) {
      newest = row.compute_capability;
      limits = row.limits;
    }
  return limits;
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
