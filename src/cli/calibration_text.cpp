#include "calibration_text.h"

#include <fmt/format.h>

#include "commands.h"

namespace nibble::cli {

void CalibrationText::add_to(CLI::App& command, const std::string& group, const std::string& help) {
  command.add_option("--calibration", file, help)->group(group);
  command.add_option("--samples", samples, "Sequences of it, evenly spaced; as many as it has, if fewer")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->group(group);
  command.add_option("--sample-tokens", sample_tokens, "Tokens of a sequence")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->group(group);
  command.add_option("--cache-memory", cache_memory, "Hidden states to hold in memory (512MB, 4GB); more go to a file")
      ->transform(CLI::AsSizeValue(false))
      ->default_str("4GB")
      ->group(group);
}

std::filesystem::path CalibrationText::path() const {
  return file.empty() ? example_data() / "calibration.txt" : std::filesystem::path(file);
}

void CalibrationText::note_if_short(std::size_t found) const {
  if (found < samples)
    fmt::print(stderr, "note: the calibration text has {} samples of {} tokens, not {}\n", found, sample_tokens,
               samples);
}

void warn_of(const model::LayerReport& layer) {
  if (!layer.fallback.empty()) fmt::print(stderr, "WARNING: {}\n", printable(layer.fallback));
  for (const std::string& step : layer.recovery)
    fmt::print(stderr, "warning: {}: {}\n", printable(layer.layer), printable(step));
}

}  // namespace nibble::cli
