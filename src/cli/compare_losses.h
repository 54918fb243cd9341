// What each layer of a quantized model loses: for the report of `compare`.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "compare_rows.h"
#include "nibble/format/checkpoint.h"

namespace nibble::cli {

/// The linear layers of a model, and some of what each multiplies while the model reads a text.
class OriginalLayers {
 public:
  /// Runs the model over the first tokens of the text, and keeps of each layer's inputs what `memory` bytes hold.
  OriginalLayers(const std::filesystem::path& model, const std::filesystem::path& text,
                 std::size_t memory = std::size_t{256} << 20);

  /// For each layer ‖X(W − Q)ᵀ‖ / ‖XWᵀ‖ over the inputs X that were kept: the part of its output that goes wrong. Of
  /// layers that the copy holds in the original's shape, and that saw an input. Errors are those of reading.
  [[nodiscard]] std::vector<LayerLoss> losses(const std::filesystem::path& copy) const;

 private:
  struct Inputs {
    std::size_t rows = 0, cols = 0;
    std::vector<float> values;  ///< [rows][cols]
  };
  void keep_inputs(const std::filesystem::path& model, const std::filesystem::path& text, std::size_t memory);
  [[nodiscard]] double loss_of(const Inputs& x, std::vector<float> exact, std::vector<float> decoded) const;

  Checkpoint model_;
  std::vector<std::string> layers_;
  std::map<std::string, Inputs, std::less<>> inputs_;
};

}  // namespace nibble::cli
