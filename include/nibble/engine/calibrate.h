// Whole models by GPTQ or AWQ, block by block.
//
//   nibble::model::CalibrateOptions options;
//   options.method = nibble::model::CalibratedMethod::parse("gptq-4-g128");
//   auto report = nibble::engine::quantize_calibrated("model", "model-gptq", token_ids, options);
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "nibble/model/calibrate.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// Reads the dense model `from`, a directory or a GGUF file (whose quantized tensors are decoded), and writes the model
/// `to`, which must not exist, as quantize_model does. Holds one block, its statistics (four matrices of in × in at
/// most) and the hidden states, see cache_bytes. `to` appears complete or not at all; after an error or a cancel the
/// finished blocks stay in "<to>.partial" for resume. The bytes written do not depend on the number of threads. Errors:
/// invalid_argument (an option out of range; `to` or a leftover exists; a rule that matches nothing; fewer than two
/// tokens, or an id outside the vocabulary; a layer that is quantized already), unsupported (the layout cannot hold a
/// layer, said before any work), those of gptq::solve and awq::search_scales, cancelled.
model::CalibrateReport quantize_calibrated(const std::filesystem::path& from, const std::filesystem::path& to,
                                           std::span<const std::int32_t> ids, const model::CalibrateOptions& options);

}  // namespace nibble::inline NIBBLE_ABI::engine
