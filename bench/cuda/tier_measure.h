// The rows of the tier table for the device at hand, measured.
#pragma once

#include <string>
#include <vector>

#include "backend/cuda/tier_table.h"

namespace nibble::bench {

/// Replaces the rows of device 0's compute capability, or adds them, and says what was measured. Errors: unsupported
/// (built without the CUDA backend, no device), CudaError.
std::string measure_rows(std::vector<cuda::TierRow>& rows);

}  // namespace nibble::bench
