// What the GGUF file of a model will hold: its metadata, and each tensor's type and shape, settled and checked before
// anything is written.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "nibble/format/checkpoint.h"
#include "nibble/format/gguf.h"
#include "nibble/model/config.h"
#include "nibble/model/export_gguf.h"

namespace nibble::inline NIBBLE_ABI::model {

class GgufPlan {
 public:
  enum class Kind { vector, matrix, stack, factors };
  struct Entry {
    std::string name;                     ///< Hugging Face's; of a stack its module's weight in the first expert.
    Kind kind;                            ///< A router is written as a vector is, in fp32.
    std::vector<std::string> parts = {};  ///< Of a stack: each expert's.
  };

  /// Errors as export_gguf(). Keeps a reference to the options.
  GgufPlan(const std::filesystem::path& from, const ExportGgufOptions& options);

  [[nodiscard]] const std::filesystem::path& from() const { return from_; }
  [[nodiscard]] const ExportGgufOptions& options() const { return options_; }
  [[nodiscard]] const Config& config() const { return config_; }
  [[nodiscard]] const Architecture& architecture() const { return architecture_; }
  [[nodiscard]] const Checkpoint& checkpoint() const { return in_; }
  [[nodiscard]] const GgufMetadata& metadata() const { return metadata_; }
  [[nodiscard]] const std::vector<Entry>& entries() const { return entries_; }
  /// One for each entry.
  [[nodiscard]] const std::vector<GgufTensor>& tensors() const { return declared_; }
  /// Of a linear layer's weight, an expert's too; nothing where there is no such layer.
  [[nodiscard]] std::optional<BlockType> type_of(const std::string& layer) const;
  /// Of the columns of a matrix or of one expert's; empty: all alike. (The embedding's rows are looked up, so that what
  /// a tied head sees says nothing of a file that lists it by another size: llama.cpp passes over that too.)
  [[nodiscard]] std::vector<float> importance_of(const std::string& name, const GgufTensor& t,
                                                 std::size_t expert) const;
  [[nodiscard]] std::size_t file_bytes() const { return GgufWriter::file_bytes(metadata_, declared_); }
  /// Types, bits and what was found on the way; the writer adds the rest.
  [[nodiscard]] const ExportGgufReport& report() const { return report_; }

 private:
  void note(std::string text) { report_.notes.push_back(std::move(text)); }
  void add(const std::string& name, Kind kind, BlockType type, std::vector<std::size_t> shape);
  void add_weight(const EndModule& end, Kind kind, BlockType type, std::vector<std::size_t> shape);
  void add_linear(const std::string& name, BlockType type, std::size_t out, std::size_t in);
  void add_stack(std::size_t block, const Module& m, BlockType type, std::size_t out, std::size_t in);
  /// Of a linear layer, as asked for.
  [[nodiscard]] BlockType wanted(std::size_t block, const Module& m) const;
  void count(const GgufTensor& t, std::string why);
  /// Of the tensor that was added last.
  void count_weights(std::size_t out, std::size_t in);
  void check_plan() const;
  void check_scores() const;
  void check_carried();
  void declare();
  void check_importance();

  std::filesystem::path from_;
  const ExportGgufOptions& options_;
  Config config_;
  const Architecture& architecture_;
  Checkpoint in_;
  GgufMetadata metadata_;
  std::vector<Entry> entries_;
  std::vector<GgufTensor> declared_;
  ExportGgufReport report_;
  double bits_ = 0, weights_ = 0;
};

}  // namespace nibble::inline NIBBLE_ABI::model
