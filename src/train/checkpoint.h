// What a fine-tune goes on from: the parameters and the optimizer's state after a step, in a folder that has its name
// only when it is whole.
//
//   <checkpoints>/checkpoint-<step>/training_state.safetensors   "parameters.<name>", "optimizer.<name>.<part>"
//   <checkpoints>/checkpoint-<step>/…                            whatever Trainable::save writes
//
// The file's metadata says of which run it is; nothing random is kept, since all of it is a function of the seed and of
// how many steps are done.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "nibble/train/finetune.h"

namespace nibble::inline NIBBLE_ABI::train {

/// What must be the same for a run to go on: names, as in FinetuneOptions, and values.
using RunDescription = std::map<std::string, std::string>;
RunDescription describe_run(const FinetuneOptions& options, std::span<const Row> rows,
                            std::span<const Parameter> parameters);

/// The last one, if there is any.
std::optional<std::filesystem::path> last_checkpoint(const std::filesystem::path& folder);

/// Returns its path. One of this step that is there already is left as it is.
std::filesystem::path write_checkpoint(const FinetuneOptions& options, const RunDescription& run,
                                       std::span<const Parameter> parameters, Optimizer& optimizer,
                                       const Trainable& model);

/// Puts parameters and state back, and returns the steps done. Error{invalid_argument} names what of the run differs;
/// {corrupt_file} for what is not whole: nothing is changed then.
std::size_t read_checkpoint(const std::filesystem::path& checkpoint, const RunDescription& run,
                            std::span<const Parameter> parameters, Optimizer& optimizer);

/// Removes all but the last `keep`.
void prune_checkpoints(const std::filesystem::path& folder, std::size_t keep);

}  // namespace nibble::inline NIBBLE_ABI::train
