#include "nibble/model/quantize.h"

#include <algorithm>
#include <iterator>

#include "core/pending.h"
#include "core/typed_buffer.h"
#include "directory.h"
#include "gguf_checkpoint.h"
#include "gguf_directory.h"
#include "layer_selection.h"
#include "linear_layers.h"
#include "nibble/format/checkpoint.h"
#include "outline.h"
#include "stored_weights.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

class Job {
 public:
  Job(const fs::path& from, const QuantizeModelOptions& options)
      : options_(options), outline_(Outline::load(from)), in_(open_checkpoint(from, GgufView::decoded)) {
    LinearLayers found = checked(from);
    if (options.spec) choose(found);
    for (const TensorInfo& t : in_.tensors()) declare(t);
  }

  QuantizeModelReport write(const fs::path& path) {
    SafetensorsWriter writer(path, declared_, metadata_);
    each_tensor(in_, options_.progress, [&](const TensorInfo& t) {
      write_tensor(t, writer);
      in_.release(t.name);
    });
    writer.finish();
    report_.file_bytes = fs::file_size(path);
    if (weights_ > 0) report_.bits_per_weight = bits_ / weights_;
    return report_;
  }

  /// config.json with the new quantization, or with the new type of the weights.
  std::string config(const fs::path& from) const {
    if (!options_.spec) return config_with_dtype(from, *options_.convert_to);
    return config_with_quantization(from, quantization_config(*options_.spec, skipped_));
  }

 private:
  /// The linear layers, if the input is what its configuration says and the options ask for: before anything is made of
  /// its sizes.
  LinearLayers checked(const fs::path& from) const {
    if (!options_.spec && !options_.convert_to)
      throw Error(ErrorCode::invalid_argument, "quantize_model: neither a spec nor a type to convert to");
    if (options_.spec) options_.spec->validate();
    LinearLayers found = find_linear_layers(in_, outline_, from.string());
    if (!options_.spec) return found;
    refuse_quantized(found.quantized, from.string());
    require_linear_layers(found, outline_, from.string());
    if (options_.lm_head && outline_.tied_embeddings)
      throw Error(ErrorCode::invalid_argument, "lm_head is tied to the embedding, which stays in floating point");
    if (options_.lm_head && found.heads.empty())
      throw Error(ErrorCode::not_found,
                  "'" + from.string() + "' has no head to quantize: no matrix named lm_head, say");
    return found;
  }

  /// Those of the linear layers that the options leave are quantized; the others are named to the reader.
  void choose(LinearLayers& found) {
    if (found.by_rule) report_.notes.push_back(found.summary(outline_));
    std::vector<std::string> names, heads{"lm_head"};  // a tied one, too, which the file does not name
    for (const LinearTensor& head : found.heads) heads.push_back(head.layer);
    if (options_.lm_head) std::move(found.heads.begin(), found.heads.end(), std::back_inserter(found.linears));
    for (const LinearTensor& l : found.linears) names.push_back(l.layer);
    const LayerSelection selection(options_.skip, options_.only, names, heads);
    for (LinearTensor& l : found.linears) {
      if (selection.contains(l.layer)) chosen_.emplace(l.tensor, std::move(l));
      else skipped_.push_back(l.layer);
    }
    if (chosen_.empty())
      throw Error(ErrorCode::invalid_argument, "the patterns skip every layer; nothing is left to do");
    for (std::string& layer : found.left_layers()) skipped_.push_back(std::move(layer));
    if (options_.lm_head) return;
    if (!found.by_rule) skipped_.emplace_back("lm_head");  // a tied one, too, which the file does not name
    else
      for (const LinearTensor& head : found.heads) skipped_.push_back(head.layer);
  }

  /// What is quantized of this tensor; null for what stays.
  const LinearTensor* chosen(const TensorInfo& t) const {
    const auto it = chosen_.find(t.name);
    return it == chosen_.end() ? nullptr : &it->second;
  }

  /// The layer whose quantized weight this tensor is or belongs to; empty for an ordinary tensor.
  std::string quantized_layer(const TensorInfo& t) const {
    const auto layer = layer_of_tensor(t.name);
    return layer && layout_of(in_, *layer) ? *layer : std::string();
  }

  /// Converting a quantized model decodes it: its layers become ordinary weights again.
  void declare_converted(const TensorInfo& t) {
    if (const std::string layer = quantized_layer(t); !layer.empty()) {
      if (!decoded_.emplace(layer, t.name).second) return;  // another of its tensors stands for it
      const auto q = decode_quantized(in_, layer);
      declared_.push_back({layer + ".weight", *options_.convert_to, {q->rows, q->cols}, 0, 0});
    } else {
      declared_.push_back({t.name, is_float(t.type) ? *options_.convert_to : t.type, t.shape, 0, 0});
    }
  }

  void write_decoded(const std::string& layer, SafetensorsWriter& writer) {
    const auto q = decode_quantized(in_, layer);
    std::vector<float> values(q->rows * q->cols);
    const Backend& backend = options_.backend ? *options_.backend : default_backend();
    backend.dequantize(*q, 0, {values.data(), q->rows, q->cols},
                       options_.executor ? *options_.executor : default_executor());
    const Buffer bytes = typed_buffer(*options_.convert_to, values, layer + ".weight", q->cols);
    writer.write(layer + ".weight", {bytes.data(), bytes.size()});
  }

  void declare(const TensorInfo& t) {
    if (options_.convert_to && !options_.spec) return declare_converted(t);
    if (const LinearTensor* linear = chosen(t)) {
      const auto& shape = linear->matrices == 0 ? in_.matrix_info(t.name).shape : in_.stack_info(t.name).shape;
      const std::size_t rows = shape[shape.size() - 2], cols = shape.back();
      for (const std::string& layer : linear->layers()) {
        for (const NamedTensor& n : declare_quantized(layer, *options_.spec, rows, cols, t.type))
          declared_.push_back({n.name, n.type, n.shape, 0, 0});
        metadata_.insert(quantized_metadata(layer, *options_.spec, rows, cols));
      }
    } else {
      declared_.push_back(
          {t.name, options_.convert_to && is_float(t.type) ? *options_.convert_to : t.type, t.shape, 0, 0});
    }
  }

  void write_quantized(const TensorInfo& t, const LinearTensor& linear, SafetensorsWriter& writer) {
    const Backend& backend = options_.backend ? *options_.backend : default_backend();
    Executor& executor = options_.executor ? *options_.executor : default_executor();
    FloatMatrix m = linear.matrices == 0 ? in_.matrix(t.name) : in_.stack(t.name);
    const auto layers = linear.layers();
    m.rows /= layers.size();
    for (const std::string& layer : layers) {
      const QuantizedMatrix q = backend.quantize(m, *options_.spec, t.name, executor);
      for (const NamedTensor& n : encode_quantized(layer, q, t.type))
        writer.write(n.name, {n.bytes.data(), n.bytes.size()});
      const auto count = static_cast<double>(q.rows) * static_cast<double>(q.cols);
      bits_ += q.spec.bits_per_weight(q.rows, q.cols) * count;
      weights_ += count;
      ++report_.layers;
      m.data = m.row(m.rows);
    }
  }

  void write_tensor(const TensorInfo& t, SafetensorsWriter& writer) {
    if (const LinearTensor* linear = chosen(t)) return write_quantized(t, *linear, writer);
    if (options_.convert_to && !options_.spec)
      if (const std::string layer = quantized_layer(t); !layer.empty()) {
        if (decoded_.at(layer) == t.name) write_decoded(layer, writer);
        return;
      }
    const std::size_t columns = t.shape.empty() ? 1 : std::max<std::size_t>(1, t.shape.back());
    const bool converts = options_.convert_to && is_float(t.type) && t.type != *options_.convert_to;
    const Buffer bytes =
        converts ? typed_buffer(*options_.convert_to, in_.read_f32(t.name), t.name, columns) : in_.data(t.name);
    writer.write(t.name, {bytes.data(), bytes.size()});
  }

  const QuantizeModelOptions& options_;
  const Outline outline_;
  Checkpoint in_;
  std::map<std::string, LinearTensor> chosen_;  ///< By tensor.
  std::vector<std::string> skipped_;            ///< Linear layers that stay in floating point.
  std::vector<TensorInfo> declared_;
  std::map<std::string, std::string> metadata_{{"format", "pt"}};
  std::map<std::string, std::string> decoded_;  ///< Layer to the tensor at whose turn it is written.
  QuantizeModelReport report_;
  double bits_ = 0, weights_ = 0;
};

}  // namespace

QuantizeModelReport quantize_model(const fs::path& from, const fs::path& to, const QuantizeModelOptions& options) {
  files::check_output({to, files::OutputKind::new_folder}, {from});
  Job job(from, options);  // whatever is wrong with the input, before anything is written
  PendingDirectory out(to);
  QuantizeModelReport result = job.write(out.path() / "model.safetensors");
  files::write_file(out.path() / "config.json", job.config(from));
  SideFiles side = write_side_files(from, out.path());
  result.left_out = std::move(side.left_out);
  std::move(side.notes.begin(), side.notes.end(), std::back_inserter(result.notes));
  if (std::string note = requantization_note(from); options.spec && !note.empty())
    result.notes.push_back(std::move(note));
  out.commit();
  return result;
}

}  // namespace nibble::inline NIBBLE_ABI::model
