// Names of specs that are short for another (matrix/quant_spec.h).
#pragma once

#include <string_view>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::detail {

/// Names that stand for a small float and what goes with it; options may follow. A spec that is one is printed so.
struct SpecAlias {
  std::string_view name, meaning;
};
inline constexpr SpecAlias kSpecAliases[] = {{"fp8", "e4m3-channel"},
                                             {"mxfp4", "e2m1-g32-e8m0"},
                                             {"mxfp6", "e2m3-g32-e8m0"},
                                             {"mxfp8", "e4m3-g32-e8m0"},
                                             {"nvfp4", "e2m1-g16-e4m3"}};

}  // namespace nibble::inline NIBBLE_ABI::detail
