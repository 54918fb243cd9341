// The text that a command runs a model on, and how much of it: options that several commands have.
#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <filesystem>
#include <string>

#include "nibble/core/error.h"
#include "nibble/core/progress.h"
#include "nibble/format/imatrix.h"
#include "nibble/model/calibrate.h"

namespace nibble::cli {

/// Of --calibration where that may be left out.
inline constexpr const char* kByDefault =
    "; best like what the model will read (default: the embedded one, literary English)";

struct CalibrationText {
  std::string file;
  std::size_t samples = 128, sample_tokens = 512, cache_memory = std::size_t{4} << 30;

  /// Adds --calibration with that help, --samples, --sample-tokens and --cache-memory.
  void add_to(CLI::App& command, const std::string& group, const std::string& help);
  /// Where the text lies: the embedded one where none was given.
  [[nodiscard]] std::filesystem::path path() const;
  /// Says on standard error how many samples a text has that has fewer than were asked for.
  void note_if_short(std::size_t found) const;
};

/// Says on standard error what went other than asked for in a layer.
void warn_of(const model::LayerReport& layer);

/// What `run` gives; where it was cancelled the error says how to go on.
template <class Run>
auto resumable(const std::string& output, const Run& run) {
  try {
    return run();
  } catch (const Error& e) {
    if (e.code() != ErrorCode::cancelled) throw;
    throw Error(e.code(), std::string(e.what()) + "; what is finished is kept beside " + output +
                              ", and --resume goes on with it");
  }
}

/// The importance matrix of a model on such a text.
ImportanceMatrix observed(const std::string& model, const CalibrationText& text, Progress progress);

}  // namespace nibble::cli
