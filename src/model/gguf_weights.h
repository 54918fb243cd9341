// A GGUF file as a model of this engine: its configuration, and its tensors under Hugging Face's names, which the
// architecture's table translates. No output matrix: the embeddings are tied. Experts' matrices, of which a file holds
// one stack [experts, rows, cols] for each module, are tensors of their own here.
//
// llama.cpp rotates the values 2i and 2i + 1 of a head in some architectures, this engine i and i + head_dim/2 as
// Hugging Face does; the rows of query and key (and their biases) are then in the order that suits llama.cpp.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/format/gguf.h"
#include "nibble/model/config.h"

namespace nibble::inline NIBBLE_ABI::model {

/// Row r of a q or k matrix in GGUF's order is row interleaved_row(r, head_dim) in Hugging Face's.
constexpr std::size_t interleaved_row(std::size_t r, std::size_t head_dim) {
  const std::size_t in_head = r % head_dim;
  return r - in_head + in_head % 2 * (head_dim / 2) + in_head / 2;
}

/// The file's tensors and configuration. Errors name the key or tensor as the file does.
class GgufWeights {
 public:
  explicit GgufWeights(const std::filesystem::path& path);
  [[nodiscard]] const Config& config() const { return config_; }
  [[nodiscard]] const GgufFile& file() const { return file_; }
  /// Hugging Face's names of all tensors of the model, in file order. Error{unsupported} names a tensor that has no
  /// place in it: whatever it is for, the model would be another without it.
  [[nodiscard]] std::vector<std::string> names() const;
  /// Of an expert's matrix: its part of the stack.
  [[nodiscard]] GgufTensor info(const std::string& name) const;
  [[nodiscard]] bool contains(const std::string& name) const {
    return architecture_.expert_of(name).value_or(0) < std::max<std::size_t>(1, config_.experts) &&
           file_.contains(gguf_name(name));
  }
  /// A norm, a bias or a router.
  [[nodiscard]] std::vector<float> read_f32(const std::string& name) const;
  /// A matrix, rows in Hugging Face's order, floats aligned. A view of the file where it can be.
  [[nodiscard]] BlockMatrix matrix(const std::string& name) const;
  void require_intact() const { file_.require_intact(); }
  void release(const std::string& name) const { file_.release(info(name)); }

 private:
  [[nodiscard]] std::string gguf_name(const std::string& name) const { return architecture_.gguf_name(name); }

  GgufFile file_;
  Config config_;
  const Architecture& architecture_;
};

}  // namespace nibble::inline NIBBLE_ABI::model
