#include "nibble/model/convert.h"

#include <set>

#include "core/pending.h"
#include "directory.h"
#include "gguf_checkpoint.h"
#include "gguf_directory.h"
#include "linear_layers.h"
#include "nibble/format/checkpoint.h"
#include "outline.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

class Job {
 public:
  Job(const fs::path& from, const ConvertModelOptions& options)
      : options_(options),
        outline_(Outline::load(from)),
        in_(open_checkpoint(from, GgufView::exact)),
        linears_(find_linear_layers(in_, outline_, from.string())) {
    for (const LinearTensor& l : linears_.linears) linear_tensors_.insert(l.tensor);
    for (const TensorInfo& t : in_.tensors()) declare(t);
    if (const std::string types = gguf_quantization(from); layers_.empty() && !types.empty())
      throw Error(ErrorCode::unsupported,
                  "'" + from.string() + "' holds " + types +
                      ", which no layout of safetensors has exactly; `nibble convert --to bf16` "
                      "decodes it, `nibble quantize` quantizes it anew");
    if (layers_.empty())
      throw Error(ErrorCode::invalid_argument,
                  "'" + from.string() + "' holds no quantized layer to convert; `nibble quantize` makes them");
  }

  ConvertModelReport write(const fs::path& path) {
    SafetensorsWriter writer(path, declared_, metadata_);
    each_tensor(in_, options_.progress, [&](const TensorInfo& t) { write_tensor(t, writer); });
    writer.finish();
    report_.layers = layers_.size();
    report_.file_bytes = files::size(path);
    return report_;
  }

  [[nodiscard]] const Checkpoint& input() const { return in_; }

  /// The quantization_config of what was written.
  [[nodiscard]] std::string config() const {
    std::vector<std::string> skipped = dense_;
    if (!linears_.by_rule && !first_tensor_.contains("lm_head")) skipped.push_back("lm_head");
    for (std::string& layer : linears_.left_layers()) skipped.push_back(std::move(layer));
    if (linears_.by_rule)
      for (const LinearTensor& head : linears_.heads) skipped.push_back(head.layer);
    return quantization_config(options_.to, layers_, skipped);
  }

  [[nodiscard]] std::vector<std::string> notes() const {
    return outline_.config ? outline_.config->notes : std::vector<std::string>();
  }

 private:
  [[nodiscard]] std::string layer_of(const TensorInfo& t) const {
    const auto layer = layer_of_tensor(t.name);
    return layer && (first_tensor_.contains(*layer) || layout_of(in_, *layer)) ? *layer : std::string();
  }

  void release(const std::string& layer) const {
    for (const std::string& name : parts_.at(layer)) in_.release(name);
  }

  void declare(const TensorInfo& t) {
    const std::string layer = layer_of(t);
    if (layer.empty()) {
      declared_.push_back({t.name, t.type, t.shape, 0, 0});
      if (linear_tensors_.contains(t.name)) dense_.push_back(t.name.substr(0, t.name.rfind(".weight")));
      return;
    }
    parts_[layer].push_back(t.name);
    if (!first_tensor_.emplace(layer, t.name).second) return;
    const QuantizedMatrix q = *decode_quantized(in_, layer);
    const LayerDescription description = describe(layer, q);
    for (const NamedTensor& n : declare_quantized(options_.to, layer, description))
      declared_.push_back({n.name, n.type, n.shape, 0, 0});
    if (const auto entry = quantized_metadata(options_.to, layer, description)) metadata_.insert(*entry);
    layers_.push_back({layer, description});
    release(layer);
  }

  /// What the layer becomes; notes a loss, or refuses it.
  LayerDescription describe(const std::string& layer, const QuantizedMatrix& q) {
    LayerDescription d = LayerDescription::of(q, dtype_of_weights(in_, outline_, linears_));
    const std::string why = loss_in(options_.to, q);
    if (why.empty()) return d;
    if (!options_.allow_loss)
      throw Error(ErrorCode::unsupported, "layer '" + layer + "' (" + q.spec.to_string() +
                                              ") would lose something in " + std::string(name_of(options_.to)) + ": " +
                                              why + " (--allow-loss converts it all the same)");
    try {
      d.spec = nearest_spec(options_.to, d);
    } catch (const Error& e) {
      throw Error(e.code(), "layer '" + layer + "': " + e.what());
    }
    d.act_order = d.act_order && rescaled_only(q.spec, d.spec) && loss_in(options_.to, d).empty();
    report_.losses.push_back({layer, why, q.spec, d.spec});
    return d;
  }

  static bool rescaled_only(QuantSpec from, const QuantSpec& to) {
    from.scale_type = to.scale_type;
    from.scale_rule = to.scale_rule;
    return from == to;
  }

  QuantizedMatrix convert(const std::string& layer, const LayerDescription& d) const {
    QuantizedMatrix q = *decode_quantized(in_, layer);
    if (rescaled_only(q.spec, d.spec) && d.act_order == !q.g_idx.empty())
      return d.spec.scale_type == q.spec.scale_type || loss_in(options_.to, q).empty()
                 ? q
                 : with_scale_type(std::move(q), d.spec.scale_type, layer);
    const Backend& backend = options_.backend ? *options_.backend : default_backend();
    Executor& executor = options_.executor ? *options_.executor : default_executor();
    std::vector<float> values(q.rows * q.cols);
    const MatrixView<float> view(values.data(), q.rows, q.cols);
    backend.dequantize(q, 0, view, executor);
    return backend.quantize(view, d.spec, layer, executor);
  }

  void write_tensor(const TensorInfo& t, SafetensorsWriter& writer) {
    const std::string layer = layer_of(t);
    if (layer.empty()) {
      const Buffer bytes = in_.data(t.name);
      writer.write(t.name, {bytes.data(), bytes.size()});
      in_.release(t.name);
      return;
    }
    if (first_tensor_.at(layer) != t.name) return;  // written with the first of its layer
    const LayerDescription& d = layers_[written_++].description;
    for (const NamedTensor& n : encode_quantized(options_.to, layer, convert(layer, d), d.dtype))
      writer.write(n.name, {n.bytes.data(), n.bytes.size()});
    release(layer);
  }

  const ConvertModelOptions& options_;
  const Outline outline_;
  Checkpoint in_;
  const LinearLayers linears_;
  std::set<std::string> linear_tensors_;  ///< Of linears_.
  std::vector<TensorInfo> declared_;
  std::map<std::string, std::string> metadata_{{"format", "pt"}};
  std::map<std::string, std::string> first_tensor_;        ///< Of each layer: at its turn the layer is written.
  std::map<std::string, std::vector<std::string>> parts_;  ///< All tensors of each layer.
  std::vector<QuantizedLayer> layers_;                     ///< As they become, in the order of their first tensors.
  std::vector<std::string> dense_;                         ///< Linear layers of the blocks that are not quantized.
  std::size_t written_ = 0;
  ConvertModelReport report_;
};

}  // namespace

ConvertModelReport convert_model(const fs::path& from, const fs::path& to, const ConvertModelOptions& options) {
  files::check_output({to, files::OutputKind::new_folder}, {from});
  Job job(from, options);  // whatever is wrong with the input, before anything is written
  const std::string quantization = job.config();
  PendingDirectory out(to);
  ConvertModelReport result = job.write(out.path() / "model.safetensors");
  write_quantized_config(from, out.path(), options.to, quantization);
  SideFiles side = write_side_files(from, out.path());
  result.left_out = std::move(side.left_out);
  result.notes = job.notes();
  result.notes.insert(result.notes.end(), side.notes.begin(), side.notes.end());
  out.commit();
  return result;
}

}  // namespace nibble::inline NIBBLE_ABI::model
