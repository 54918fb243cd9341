// apply_gate (backend/gated.h) by kernels that the caller has chosen.
#pragma once

#include <span>

#include "nibble/backend/gated.h"
#include "nibble/backend/impl/cpu/kernels.h"

namespace nibble::inline NIBBLE_ABI::detail {

void apply_gate(const kernels::KernelTable& isa, GatedActivation activation, std::span<const float> gate,
                std::span<const float> up, std::span<float> y);

}  // namespace nibble::inline NIBBLE_ABI::detail
