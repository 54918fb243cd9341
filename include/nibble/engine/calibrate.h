// Whole models by GPTQ or AWQ, block by block, run by this engine. (model/calibrate.h has the same for any other.)
//
//   nibble::model::CalibrateOptions options;
//   options.method = nibble::model::CalibratedMethod::parse("gptq-4-g128");
//   auto report = nibble::engine::quantize_calibrated("model", "model-gptq", token_ids, options);
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "nibble/model/calibrate.h"
#include "nibble/model/calibrated_block.h"
#include "nibble/model/export_gguf.h"
#include "nibble/model/importance.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// Reads the dense model `from`, a directory or a GGUF file (whose quantized tensors are decoded), and writes the model
/// `to`: model::quantize_calibrated, with this engine. Holds one block, its statistics (four matrices of in × in at
/// most) and the hidden states, see cache_bytes. Errors beside its: unsupported, for an architecture that is not known
/// or that check_architecture refuses; those of Model::load.
model::CalibrateReport quantize_calibrated(const std::filesystem::path& from, const std::filesystem::path& to,
                                           std::span<const std::int32_t> ids, const model::CalibrateOptions& options);

/// The same into a GGUF file: model::export_gguf_calibrated, with this engine.
model::ExportGgufReport export_gguf_calibrated(const std::filesystem::path& from, const std::filesystem::path& to,
                                               std::span<const std::int32_t> ids,
                                               const model::ExportGgufOptions& options,
                                               const model::CalibrateOptions& calibration = {});

/// The dense model at `path` as that goes through it, its blocks read when they are asked for. Null: default_backend(),
/// default_executor(). Errors as quantize_calibrated.
std::unique_ptr<model::CalibratedModel> calibrated_model(const std::filesystem::path& path,
                                                         const Backend* backend = nullptr,
                                                         Executor* executor = nullptr);

/// How much the inputs of the model's linear layers carry (model::importance), under the names that they have in GGUF
/// files, experts in their stacks; and of the head, unless it is tied to the embedding. `options.place` and
/// `options.head` are settled by that. Null: default_backend(), default_executor(). Errors beside its:
/// as quantize_calibrated.
ImportanceMatrix importance(const std::filesystem::path& path, std::span<const std::int32_t> ids,
                            model::ImportanceOptions options = {}, const Backend* backend = nullptr,
                            Executor* executor = nullptr);

}  // namespace nibble::inline NIBBLE_ABI::engine
