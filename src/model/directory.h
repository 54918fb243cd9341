// What commands that write a whole model share: a directory that appears complete or not at all, its config.json and
// the files beside the weights.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "core/output_path.h"
#include "core/pending.h"
#include "nibble/core/dtype.h"
#include "nibble/core/impl/memory.h"
#include "nibble/core/progress.h"
#include "nibble/format/checkpoint.h"
#include "side_files.h"

namespace nibble::inline NIBBLE_ABI::model {

using files::PendingDirectory;

/// step(tensor) for each tensor of a checkpoint in its order; progress is the share of their bytes. Error{io} if one of
/// the files has changed by the end.
template <class Step>
void each_tensor(const Checkpoint& in, const Progress& progress, Step&& step) {
  std::size_t done = 0, total = 1;
  for (const TensorInfo& t : in.tensors()) total += t.bytes;
  for (const TensorInfo& t : in.tensors()) {
    report(progress, static_cast<double>(done) / static_cast<double>(total), t.name);
    try {
      needing_memory([&] { return "tensor '" + t.name + "'"; }, t.bytes, [&] { step(t); });
    } catch (const Error&) {
      in.require_intact();  // says more than what comes of reading a file that is cut off
      throw;
    }
    done += t.bytes;
  }
  in.require_intact();
  report(progress, 1, "syncing");
}

/// from/config.json with another quantization_config (JSON text), or with none and another type of the weights.
std::string config_with_quantization(const std::filesystem::path& from, const std::string& quantization);
std::string config_with_dtype(const std::filesystem::path& from, DType type);
/// Writes to/config.json with this quantization_config, and for GPTQ's layouts quantize_config.json, which its readers
/// look for first.
void write_quantized_config(const std::filesystem::path& from, const std::filesystem::path& to, CheckpointLayout layout,
                            const std::string& quantization);

}  // namespace nibble::inline NIBBLE_ABI::model
