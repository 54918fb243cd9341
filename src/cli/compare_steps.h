// What one model of `compare` goes through: made, evaluated, timed, looked at layer by layer, forgotten.
#pragma once

#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "compare_losses.h"
#include "compare_rows.h"
#include "core/pending.h"
#include "methods.h"
#include "turns.h"

namespace nibble::cli {

/// Each step is a process. Its functions may be called from several threads, for models of different names.
class CompareSteps {
 public:
  /// `jobs`: how many models will be gone through at once, and share the threads.
  CompareSteps(const CompareOptions& options, int jobs);

  /// fp32, whose probabilities the others are compared with. Before them, unless nothing is to be compared.
  CompareRow reference();
  /// The rows of methods that store the same model, which is made once. One that fails is a row that says why. Error
  /// only after Ctrl-C.
  std::vector<CompareRow> rows(const std::vector<std::string>& methods);

 private:
  void make(const Method& method, const std::filesystem::path& copy);
  std::filesystem::path model_of(const Method& method);
  CompareRow attempt(const std::string& method, bool reference);
  CompareRow measure(const Method& method, const std::filesystem::path& copy, bool reference);
  std::vector<LayerLoss> losses_of(const std::filesystem::path& copy);

  // Of the tool's own commands.
  [[nodiscard]] std::vector<std::string> quantize_arguments(const Method& method, const std::filesystem::path& model,
                                                            const std::filesystem::path& copy) const;
  [[nodiscard]] std::vector<std::string> export_arguments(const Method& method,
                                                          const std::filesystem::path& copy) const;
  [[nodiscard]] std::vector<std::string> eval_arguments(const Method& method, const std::filesystem::path& copy) const;

  [[nodiscard]] std::filesystem::path copy_of(const std::string& method) const;
  [[nodiscard]] std::filesystem::path file_of(const Method& method, const std::string& ending) const;

  const CompareOptions& o_;
  int jobs_, threads_;
  /// For the quantized copies and the figures.
  files::PendingDirectory work_{files::PendingDirectory::Scratch{},
                                std::filesystem::temp_directory_path() / "nibble-compare"};
  Turns turns_;
  bool has_reference_ = false;
  std::mutex rotations_;                    ///< One at a time makes a rotated model, and all take it.
  std::mutex map_;                          ///< Of the next two.
  std::optional<OriginalLayers> original_;  ///< Where a report is asked for.
  bool map_failed_ = false;
};

}  // namespace nibble::cli
