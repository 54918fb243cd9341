#include "nibble/model/quantize.h"

#include <algorithm>

#include "core/typed_buffer.h"
#include "directory.h"
#include "format/files.h"
#include "gguf_checkpoint.h"
#include "gguf_directory.h"
#include "layer_selection.h"
#include "nibble/format/checkpoint.h"
#include "nibble/model/config.h"
#include "stored_weights.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

/// The linear layers that a run may quantize.
std::vector<std::string> candidates(const Config& config, bool lm_head) {
  std::vector<std::string> out;
  for (std::size_t i = 0; i < config.layers; ++i)
    for (std::string& name : config.architecture().linear_names(i)) out.push_back(std::move(name));
  if (lm_head) out.emplace_back("lm_head");
  return out;
}

class Job {
 public:
  Job(const fs::path& from, const Config& config, const QuantizeModelOptions& options)
      : options_(options),
        architecture_(config.architecture()),
        in_(checked(open_checkpoint(from, GgufView::decoded), from, config, options)),
        layers_(candidates(config, options.lm_head)),
        selection_(options.skip, options.only, layers_) {
    if (std::none_of(layers_.begin(), layers_.end(), [&](const auto& l) { return selection_.contains(l); }))
      throw Error(ErrorCode::invalid_argument, "the patterns skip every layer; nothing is left to do");
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
    std::vector<std::string> skipped;
    for (const std::string& layer : layers_)
      if (!selection_.contains(layer)) skipped.push_back(layer);
    if (!options_.lm_head) skipped.emplace_back("lm_head");
    return config_with_quantization(from, quantization_config(*options_.spec, skipped));
  }

 private:
  /// The input, if it is what the configuration says and the options ask for: before anything is made of its sizes.
  static Checkpoint checked(Checkpoint in, const fs::path& from, const Config& config,
                            const QuantizeModelOptions& options) {
    if (!options.spec && !options.convert_to)
      throw Error(ErrorCode::invalid_argument, "quantize_model: neither a spec nor a type to convert to");
    if (options.spec) options.spec->validate();
    const auto quantized = check_stored_weights(in, config, from.string());
    if (options.spec) refuse_quantized(quantized, from.string());
    if (options.lm_head && config.tied_embeddings)
      throw Error(ErrorCode::invalid_argument, "lm_head is tied to the embedding, which stays in floating point");
    if (options.lm_head) (void)in.matrix_info("lm_head.weight");
    return in;
  }

  bool quantized(const TensorInfo& t) const {
    const bool linear = architecture_.is_linear_weight(t.name) || (options_.lm_head && t.name == "lm_head.weight");
    return options_.spec && linear && t.shape.size() == 2 && selection_.contains(layer_of(t));
  }
  static std::string layer_of(const TensorInfo& t) {
    return t.name.substr(0, t.name.size() - std::string_view(".weight").size());
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
    if (quantized(t)) {
      const auto& shape = in_.matrix_info(t.name).shape;
      for (const NamedTensor& n : declare_quantized(layer_of(t), *options_.spec, shape[0], shape[1], t.type))
        declared_.push_back({n.name, n.type, n.shape, 0, 0});
      metadata_.insert(quantized_metadata(layer_of(t), *options_.spec, shape[0], shape[1]));
    } else {
      declared_.push_back(
          {t.name, options_.convert_to && is_float(t.type) ? *options_.convert_to : t.type, t.shape, 0, 0});
    }
  }

  void write_tensor(const TensorInfo& t, SafetensorsWriter& writer) {
    if (quantized(t)) {
      const Backend& backend = options_.backend ? *options_.backend : default_backend();
      Executor& executor = options_.executor ? *options_.executor : default_executor();
      const QuantizedMatrix q = backend.quantize(in_.matrix(t.name), *options_.spec, t.name, executor);
      for (const NamedTensor& n : encode_quantized(layer_of(t), q, t.type))
        writer.write(n.name, {n.bytes.data(), n.bytes.size()});
      const auto count = static_cast<double>(q.rows) * static_cast<double>(q.cols);
      bits_ += q.spec.bits_per_weight(q.rows, q.cols) * count;
      weights_ += count;
      ++report_.layers;
      return;
    }
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
  const Architecture& architecture_;
  Checkpoint in_;
  const std::vector<std::string> layers_;  ///< That may be quantized.
  const LayerSelection selection_;
  std::vector<TensorInfo> declared_;
  std::map<std::string, std::string> metadata_{{"format", "pt"}};
  std::map<std::string, std::string> decoded_;  ///< Layer to the tensor at whose turn it is written.
  QuantizeModelReport report_;
  double bits_ = 0, weights_ = 0;
};

}  // namespace

QuantizeModelReport quantize_model(const fs::path& from, const fs::path& to, const QuantizeModelOptions& options) {
  files::check_output({to, files::OutputKind::new_folder}, {from});
  Job job(from, Config::load(from), options);  // a model this engine knows, before anything is written
  PendingDirectory out(to);
  QuantizeModelReport result = job.write(out.path() / "model.safetensors");
  format::write_file(out.path() / "config.json", job.config(from));
  SideFiles side = write_side_files(from, out.path());
  result.left_out = std::move(side.left_out);
  result.notes = std::move(side.notes);
  if (std::string note = requantization_note(from); options.spec && !note.empty())
    result.notes.push_back(std::move(note));
  out.commit();
  return result;
}

}  // namespace nibble::inline NIBBLE_ABI::model
