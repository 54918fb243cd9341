// quantization_config as each method's readers want it, and what of a spec the integer layouts share.
#pragma once

#include <string>
#include <vector>

#include "nibble/format/quantized_tensors.h"

namespace nibble::inline NIBBLE_ABI::format {

/// Why a layer's codes are not whole numbers with one scale per group, channel or tensor; empty if they are.
std::string integer_obstacle(const LayerDescription& d, bool tensor_wide = false);
/// The nearest spec of such codes: blocks become groups, codebooks integers of as many bits.
QuantSpec nearest_integer_spec(QuantSpec spec);

std::string gptq_config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped,
                        const QuantizationRun& run, bool v2);
std::string awq_config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped,
                       const std::string& version);
/// compressed-tensors' name of the format that has floats of this spec ("float-quantized"); empty if none has them.
std::string float_format_of(const QuantSpec& spec);
std::string compressed_tensors_config(const std::vector<QuantizedLayer>& layers,
                                      const std::vector<std::string>& skipped);
std::string fp8_config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped);
std::string modelopt_config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped);

}  // namespace nibble::inline NIBBLE_ABI::format
