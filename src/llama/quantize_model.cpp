#include "nibble/llama/quantize_model.h"

#include "config_check.h"
#include "format/files.h"
#include "model_directory.h"
#include "nibble/format/checkpoint.h"
#include "nibble/llama/model.h"
#include "typed_buffer.h"

namespace nibble::llama {

namespace {

namespace fs = std::filesystem;

/// config.json with the new quantization, or with the new type of the weights.
std::string new_config(const fs::path& from, const QuantizeModelOptions& options) {
  return options.spec ? config_with_quantization(from, quantization_config(*options.spec, {"lm_head"}))
                      : config_with_dtype(from, *options.convert_to);
}

class Job {
 public:
  Job(const fs::path& from, const QuantizeModelOptions& options) : options_(options), in_(Checkpoint::open(from)) {
    if (!options.spec && !options.convert_to)
      throw Error(ErrorCode::invalid_argument, "quantize_model: neither a spec nor a type to convert to");
    if (options.spec) options.spec->validate();
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

  [[nodiscard]] const Checkpoint& input() const { return in_; }

 private:
  bool quantized(const TensorInfo& t) const {
    return options_.spec && is_block_linear_weight(t.name) && t.shape.size() == 2;
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
    const Buffer bytes = typed_buffer(*options_.convert_to, values);
    writer.write(layer + ".weight", {bytes.data(), bytes.size()});
  }

  void declare(const TensorInfo& t) {
    if (options_.convert_to && !options_.spec) return declare_converted(t);
    if (quantized(t)) {
      const FloatMatrix m = in_.matrix(t.name);
      for (const NamedTensor& n : declare_quantized(layer_of(t), *options_.spec, m.rows, m.cols, t.type))
        declared_.push_back({n.name, n.type, n.shape, 0, 0});
      metadata_.insert(quantized_metadata(layer_of(t), *options_.spec, m.rows, m.cols));
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
    const bool converts = options_.convert_to && is_float(t.type) && t.type != *options_.convert_to;
    const Buffer bytes = converts ? typed_buffer(*options_.convert_to, in_.read_f32(t.name)) : in_.data(t.name);
    writer.write(t.name, {bytes.data(), bytes.size()});
  }

  const QuantizeModelOptions& options_;
  Checkpoint in_;
  std::vector<TensorInfo> declared_;
  std::map<std::string, std::string> metadata_{{"format", "pt"}};
  std::map<std::string, std::string> decoded_;  ///< Layer to the tensor at whose turn it is written.
  QuantizeModelReport report_;
  double bits_ = 0, weights_ = 0;
};

}  // namespace

QuantizeModelReport quantize_model(const fs::path& from, const fs::path& to, const QuantizeModelOptions& options) {
  const Config config = Config::load(from);  // a model this engine knows, before anything is written
  Job job(from, options);
  check_config(config, job.input());
  PendingDirectory out(to);
  const QuantizeModelReport result = job.write(out.path() / "model.safetensors");
  format::write_file(out.path() / "config.json", new_config(from, options));
  copy_side_files(from, out.path());
  out.commit();
  return result;
}

}  // namespace nibble::llama
