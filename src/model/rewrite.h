// A model's tensors written anew, one at a time: what quantize_model and merge_adapter share.
#pragma once

#include <cstddef>
#include <filesystem>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "core/files.h"
#include "directory.h"
#include "gguf_checkpoint.h"
#include "gguf_directory.h"
#include "linear_layers.h"
#include "nibble/backend/backend.h"
#include "nibble/format/checkpoint.h"
#include "outline.h"

namespace nibble::inline NIBBLE_ABI::model {

/// The model that is read, and what the file that is written will hold: all of it is declared before the first tensor
/// is written. The options' backend and executor may be null, which stands for the default ones.
class Rewrite {
 public:
  Rewrite(const std::filesystem::path& from, const Backend* backend, Executor* executor)
      : outline(Outline::load(from)),
        in(open_checkpoint(from, GgufView::decoded)),
        backend_(backend),
        executor_(executor) {}

  const Outline outline;
  const Checkpoint in;
  std::map<std::string, std::string> metadata{{"format", "pt"}};

  /// Asked for where there is work only: a default that is misspelt is no error of a copy.
  [[nodiscard]] const Backend& backend() const { return backend_ ? *backend_ : default_backend(); }
  [[nodiscard]] Executor& executor() const { return executor_ ? *executor_ : default_executor(); }

  /// The layer whose quantized weight this tensor is or belongs to; empty for an ordinary tensor.
  [[nodiscard]] std::string quantized_layer(const TensorInfo& t) const;
  /// The whole matrix as fp32.
  [[nodiscard]] std::vector<float> decoded(const QuantizedMatrix& q) const;

  void declare(std::string name, DType type, std::vector<std::size_t> shape) {
    declared_.push_back({std::move(name), type, std::move(shape), 0, 0});
  }
  /// Where layers of this spec are at home (default_layout), or our own layout where one of them has no room there:
  /// what declare_quantized, encoded and quantization use from here on. Returns why, for the user; empty if at home.
  std::string choose_layout(const QuantSpec& spec, const std::map<std::string, LinearTensor>& linears);
  /// The tensors and the metadata of the layers in `linear`, each quantized as the spec that was chosen for says.
  void declare_quantized(const LinearTensor& linear, DType type);
  [[nodiscard]] std::vector<NamedTensor> encoded(const std::string& layer, const QuantizedMatrix& q, DType type) const {
    return encode_quantized(layout_, layer, q, type);
  }
  /// The quantization_config of the output.
  [[nodiscard]] std::string quantization(const std::vector<std::string>& skipped) const {
    return quantization_config(layout_, {{"*", described_}}, skipped);
  }
  /// visit(layer, matrix) for each of the layers in `linear`, in order. The matrix is valid during the call.
  template <class Visit>
  void each_matrix(const LinearTensor& linear, Visit&& visit) const {
    FloatMatrix m = linear.matrices == 0 ? in.matrix(linear.tensor) : in.stack(linear.tensor);
    const auto layers = linear.layers();
    m.rows /= layers.size();
    for (const std::string& layer : layers) {
      visit(layer, m);
      m.data = m.row(m.rows);
    }
  }
  static void put(SafetensorsWriter& writer, const std::string& name, const Buffer& bytes) {
    writer.write(name, {bytes.data(), bytes.size()});
  }
  static void put(SafetensorsWriter& writer, const std::vector<NamedTensor>& tensors) {
    for (const NamedTensor& n : tensors) put(writer, n.name, n.bytes);
  }
  void copy(const TensorInfo& t, SafetensorsWriter& writer) const { put(writer, t.name, in.data(t.name)); }

  /// The file: step(tensor, writer) for each tensor of the input, which is released after it. Returns its size.
  template <class Step>
  std::size_t write(const std::filesystem::path& path, const Progress& progress, Step&& step) const {
    SafetensorsWriter writer(path, declared_, metadata);
    each_tensor(in, progress, [&](const TensorInfo& t) {
      step(t, writer);
      in.release(t.name);
    });
    writer.finish();
    return files::size(path);
  }

 private:
  /// Rows and columns of each layer in `linear`.
  [[nodiscard]] LayerDescription described(const LinearTensor& linear, const QuantSpec& spec) const;

  const Backend* backend_;
  Executor* executor_;
  CheckpointLayout layout_ = CheckpointLayout::nibble;
  LayerDescription described_;  ///< Any of the layers to be quantized.
  std::vector<TensorInfo> declared_;
};

/// The files beside the weights; the report says which stayed behind and why.
template <class Report>
void add_side_files(const std::filesystem::path& from, const std::filesystem::path& to, Report& report) {
  SideFiles side = write_side_files(from, to);
  report.left_out = std::move(side.left_out);
  std::move(side.notes.begin(), side.notes.end(), std::back_inserter(report.notes));
}

}  // namespace nibble::inline NIBBLE_ABI::model
