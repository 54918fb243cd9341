// Built where the CUDA backend is not.
#include "bench/cuda/tier_measure.h"
#include "nibble/core/error.h"

namespace nibble::bench {

std::string measure_rows(std::vector<cuda::TierRow>&) {
  throw Error(ErrorCode::unsupported, "--measure needs a build with the CUDA backend (-DNIBBLE_CUDA=ON)");
}

}  // namespace nibble::bench
