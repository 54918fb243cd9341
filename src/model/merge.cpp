#include "nibble/model/merge.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "merge_checks.h"
#include "merged_rows.h"
#include "rewrite.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

class Job {
 public:
  Job(const fs::path& from, const Adapter& adapter, const MergeOptions& options)
      : options_(options),
        adapter_(adapter),
        out_(from, options.backend, options.executor),
        found_(find_linear_layers(out_.in, out_.outline, from.string())),
        coded_(found_.quantized.begin(), found_.quantized.end()),
        gguf_types_(gguf_quantization(from)) {
    check_way(options, {from.string(), !coded_.empty(), !gguf_types_.empty()});
    check_adapter(adapter, out_.in, out_.outline, found_);
    if (options.base) require_linear_layers(found_, out_.outline, from.string());
    if (options.base) options.base->validate();
    for (const AdapterLayer& l : adapter.layers) adapted_.emplace(l.name, &l);
    if (options.base && options.into != MergeInto::original)
      for (const LinearTensor& l : found_.linears) by_base_.emplace(l.tensor, l);
    if (options.base && options.into == MergeInto::quantized)
      if (std::string why = out_.choose_layout(*options.base, by_base_); !why.empty())
        report_.notes.push_back(std::move(why));
    for (const TensorInfo& t : out_.in.tensors()) declare(t);
    if (options.into == MergeInto::quantized && !options.lossy) refuse_loss();
  }

  MergeReport write(const fs::path& path) {
    report_.file_bytes = out_.write(path, options_.progress,
                                    [&](const TensorInfo& t, SafetensorsWriter& writer) { write_tensor(t, writer); });
    report_.kept = share_kept(all_);
    add_notes();
    return report_;
  }

  void write_config(const fs::path& from, const fs::path& to) const {
    if (options_.into == MergeInto::quantized && !options_.base)
      return write_quantized_config(from, to, *layout_, quantization_config(*layout_, layers_, unquantized()));
    files::write_file(to / "config.json", options_.into == MergeInto::original ? config_json(from)
                                          : options_.into == MergeInto::dequantized
                                              ? config_with_dtype(from, options_.type)
                                              : config_with_quantization(from, out_.quantization(unquantized())));
  }

 private:
  [[nodiscard]] MergeWorkers workers() const { return {out_.backend(), out_.executor()}; }

  [[nodiscard]] const AdapterLayer* adapter_of(const std::string& layer) const {
    const auto it = adapted_.find(layer);
    return it == adapted_.end() ? nullptr : it->second;
  }
  /// Of an ordinary tensor; null for one that no layer of the adapter changes.
  [[nodiscard]] const AdapterLayer* adapter_of(const TensorInfo& t) const {
    constexpr std::string_view weight = ".weight";
    return t.name.ends_with(weight) ? adapter_of(t.name.substr(0, t.name.size() - weight.size())) : nullptr;
  }
  [[nodiscard]] const LinearTensor* by_base(const TensorInfo& t) const {
    const auto it = by_base_.find(t.name);
    return it == by_base_.end() ? nullptr : &it->second;
  }
  /// The type of what is no quantized layer in the output. The matrices of a quantized GGUF file are shown as F32,
  /// whatever little they hold.
  [[nodiscard]] DType type_of(const TensorInfo& t) const {
    if (options_.into != MergeInto::dequantized) return t.type;
    const bool decoded = !gguf_types_.empty() && t.type == DType::f32 && t.shape.size() == 2;
    return decoded || by_base(t) != nullptr || adapter_of(t) != nullptr ? options_.type : t.type;
  }

  /// Whether the codes of a quantized layer are others in the output; if not, its tensors are copied.
  [[nodiscard]] bool recoded(const std::string& layer) const {
    const AdapterLayer* l = adapter_of(layer);
    return l != nullptr && changes(*l);
  }

  void declare(const TensorInfo& t) {
    if (const std::string layer = coded_layer(t); !layer.empty()) return declare_coded(layer, t);
    const LinearTensor* linear = by_base(t);
    if (linear != nullptr && options_.into == MergeInto::quantized) return out_.declare_quantized(*linear, t.type);
    out_.declare(t.name, type_of(t), t.shape);
  }

  [[nodiscard]] std::string coded_layer(const TensorInfo& t) const {
    return coded_.empty() ? std::string() : out_.quantized_layer(t);
  }

  void declare_coded(const std::string& layer, const TensorInfo& t) {
    const bool first = first_tensor_.emplace(layer, t.name).second;
    const bool quantized = options_.into == MergeInto::quantized;
    if (quantized && !recoded(layer)) out_.declare(t.name, t.type, t.shape);
    if (!first) return out_.in.release(t.name);  // its first tensor's turn has read them all
    const QuantizedMatrix q = *decode_quantized(out_.in, layer);
    if (const AdapterLayer* l = adapter_of(layer)) check_shape(*l, q.rows, q.cols);
    if (quantized) describe(layer, q);
    else out_.declare(layer + ".weight", options_.type, {q.rows, q.cols});
    out_.in.release(t.name);
  }

  /// Into the layout that it has; the configuration goes on saying how it was solved.
  void describe(const std::string& layer, const QuantizedMatrix& q) {
    const CheckpointLayout layout = *layout_of(out_.in, layer);
    check_layout(layout, layout_.value_or(layout), layer);
    layout_ = layout;
    LayerDescription d = LayerDescription::of(q, dtype_of_weights(out_.in, out_.outline, found_));
    const bool act_order = d.act_order;
    if (recoded(layer)) {
      reordered_ += act_order ? 1 : 0;
      d.act_order = false;
      for (const NamedTensor& n : declare_quantized(layout, layer, d)) out_.declare(n.name, n.type, n.shape);
    }
    if (const auto entry = quantized_metadata(layout, layer, d)) out_.metadata.insert(*entry);
    layers_.push_back({layer, d, act_order});
  }

  /// What a quantization_config names as not quantized.
  [[nodiscard]] std::vector<std::string> unquantized() const {
    std::vector<std::string> out;
    if (!options_.base)
      for (const LinearTensor& l : found_.linears)
        if (!coded_.contains(l.layer)) out.push_back(l.layer);
    for (std::string& layer : found_.left_layers_and_heads())
      if (!coded_.contains(layer)) out.push_back(std::move(layer));
    return out;
  }

  /// Ŵ, as the file or `base` has it.
  [[nodiscard]] QuantizedMatrix base_of(const std::string& layer) const {
    if (coded_.contains(layer)) return *decode_quantized(out_.in, layer);
    const std::string tensor = layer + ".weight";
    return out_.backend().quantize(out_.in.matrix(tensor), *options_.base, tensor, out_.executor());
  }

  /// Some layers are merged for their figures, so that the error says what would be lost of this adapter.
  void refuse_loss() const {
    constexpr std::size_t most = 4;
    std::vector<const AdapterLayer*> all;
    for (const AdapterLayer& l : adapter_.layers)
      if (coded_.contains(l.name) || by_base_.contains(l.name + ".weight")) all.push_back(&l);
    LossySample sample;
    sample.layers = std::min(most, all.size());
    sample.all = all.size();
    for (std::size_t i = 0; i < sample.layers; ++i) {
      const AdapterLayer& l = *all[i * all.size() / sample.layers];
      report(options_.progress, 0, l.name);
      MergeSums one;
      sample.spec = merge_quantized(l, base_of(l.name), l.name + ".weight", workers(), one).spec;
      sample.sums += one;
    }
    if (sample.layers > 0) refuse_lossy(sample);
  }

  void add(const AdapterLayer& l, const MergeSums& sums, bool measured) {
    const auto share = [&](double squares) { return sums.weight > 0 ? std::sqrt(squares / sums.weight) : 0; };
    MergedLayer& m = report_.layers.emplace_back();
    m.layer = l.name;
    m.rows = l.out, m.cols = l.in, m.rank = l.rank;
    m.weight = std::sqrt(sums.weight);
    m.change = share(sums.change);
    m.rounding = share(sums.rounding);
    m.kept = share_kept(sums);
    if (measured) m.untrained = share(sums.untrained);
    all_ += sums;
  }

  /// One layer as floats; without an adapter Ŵ alone.
  [[nodiscard]] Buffer floats(const AdapterLayer* l, const BaseRows& base, const std::string& tensor) {
    if (l == nullptr) {
      ++report_.rounded;
      return store_floats(base, options_.type, tensor, workers());
    }
    MergeSums sums;
    Buffer out = merge_floats(*l, base, nullptr, options_.type, tensor, workers(), sums);
    add(*l, sums, false);
    return out;
  }

  /// One layer as codes.
  [[nodiscard]] QuantizedMatrix codes(const AdapterLayer* l, QuantizedMatrix base, const std::string& tensor) {
    if (l == nullptr) {
      ++report_.rounded;
      return base;
    }
    MergeSums sums;
    QuantizedMatrix out = merge_quantized(*l, base, tensor, workers(), sums);
    add(*l, sums, false);
    return out;
  }

  void write_coded(const std::string& layer, const TensorInfo& t, SafetensorsWriter& writer) {
    const bool first = first_tensor_.at(layer) == t.name;
    const AdapterLayer* l = adapter_of(layer);
    const std::string tensor = layer + ".weight";
    if (options_.into == MergeInto::dequantized) {
      if (first) Rewrite::put(writer, tensor, floats(l, base_of(layer), tensor));
      return;
    }
    if (!recoded(layer)) out_.copy(t, writer);
    if (!first || l == nullptr) return;
    const QuantizedMatrix q = codes(l, base_of(layer), tensor);
    if (recoded(layer))
      Rewrite::put(writer, encode_quantized(*layout_, layer, q, dtype_of_weights(out_.in, out_.outline, found_)));
  }

  /// A dense layer, or stack of layers, that `base` quantizes.
  void write_by_base(const LinearTensor& linear, const TensorInfo& t, SafetensorsWriter& writer) {
    const bool quantized = options_.into == MergeInto::quantized;
    std::size_t at = 0;
    Buffer whole;  // of a stack, whose matrices lie one after the other
    out_.each_matrix(linear, [&](const std::string& layer, const FloatMatrix& m) {
      const AdapterLayer* l = linear.matrices == 0 ? adapter_of(layer) : nullptr;
      QuantizedMatrix q = out_.backend().quantize(m, *options_.base, t.name, out_.executor());
      if (quantized) return Rewrite::put(writer, out_.encoded(layer, codes(l, std::move(q), t.name), t.type));
      const Buffer one = floats(l, q, t.name);
      if (linear.matrices == 0) {
        whole = one;
        return;
      }
      if (at == 0) whole = Buffer::allocate(one.size() * linear.matrices);
      std::copy_n(one.data(), one.size(), whole.writable<std::byte>() + at);
      at += one.size();
    });
    if (!quantized) Rewrite::put(writer, t.name, whole);
  }

  /// A layer of the adapter that stays in floats, or a decoded tensor of a GGUF file.
  void write_dense(const TensorInfo& t, SafetensorsWriter& writer) {
    const DType type = type_of(t);
    const AdapterLayer* l = adapter_of(t);
    if (l == nullptr && type == t.type) return out_.copy(t, writer);
    const FloatMatrix m = out_.in.matrix(t.name);
    if (l == nullptr) {
      const auto is = [&](const LinearTensor& linear) { return linear.tensor == t.name; };
      if (std::any_of(found_.linears.begin(), found_.linears.end(), is)) ++report_.rounded;
      return Rewrite::put(writer, t.name, store_floats(m, type, t.name, workers()));
    }
    std::optional<QuantizedMatrix> q;
    if (options_.into == MergeInto::original && options_.base) q = base_of(l->name);
    const std::optional<BaseRows> trained = q ? std::optional<BaseRows>(*q) : std::nullopt;
    MergeSums sums;
    const Buffer bytes = merge_floats(*l, m, trained ? &*trained : nullptr, type, t.name, workers(), sums);
    add(*l, sums, q.has_value());
    Rewrite::put(writer, t.name, bytes);
  }

  void write_tensor(const TensorInfo& t, SafetensorsWriter& writer) {
    if (const std::string layer = coded_layer(t); !layer.empty()) return write_coded(layer, t, writer);
    if (const LinearTensor* linear = by_base(t)) return write_by_base(*linear, t, writer);
    write_dense(t, writer);
  }

  void add_notes() {
    if (options_.into == MergeInto::quantized && (options_.base || !layers_.empty()))
      report_.notes.push_back(better_than_codes(options_.base ? *options_.base : layers_.front().description.spec));
    if (found_.by_rule && !by_base_.empty()) report_.notes.push_back(found_.summary(out_.outline));
    if (options_.into == MergeInto::dequantized && options_.type == DType::f16 &&
        dtype_of_weights(out_.in, out_.outline, found_) == DType::bf16)
      report_.notes.emplace_back(
          "the model's other weights are BF16: F16 rounds the merged ones 8 times finer, but an engine that computes "
          "in F16 may overflow where this model did not; BF16 or F32 (--type bf16, fp32) keep its range");
    if (reordered_ > 0)
      report_.notes.push_back(std::to_string(reordered_) +
                              " layers were quantized in act-order; merged, their groups are of consecutive columns");
  }

  const MergeOptions& options_;
  const Adapter& adapter_;
  Rewrite out_;
  const LinearLayers found_;
  const std::set<std::string> coded_;  ///< Layers that the file holds quantized.
  const std::string gguf_types_;       ///< Not empty: a GGUF file that is quantized, and shown decoded.
  std::map<std::string, const AdapterLayer*> adapted_;  ///< By layer.
  std::map<std::string, LinearTensor> by_base_;         ///< Quantized by `base`; by tensor.
  std::map<std::string, std::string> first_tensor_;     ///< Of each layer in coded_: at its turn the layer is written.
  std::optional<CheckpointLayout> layout_;              ///< Of those, where they are written as such.
  std::vector<QuantizedLayer> layers_;
  std::size_t reordered_ = 0;
  MergeSums all_;
  MergeReport report_;
};

}  // namespace

MergeReport merge_adapter(const fs::path& from, const Adapter& adapter, const fs::path& to,
                          const MergeOptions& options) {
  files::check_output({to, files::OutputKind::new_folder}, {from});
  Job job(from, adapter, options);  // whatever is wrong with the input, before anything is written
  PendingDirectory out(to);
  MergeReport result = job.write(out.path() / "model.safetensors");
  job.write_config(from, out.path());
  add_side_files(from, out.path(), result);
  out.commit();
  return result;
}

}  // namespace nibble::inline NIBBLE_ABI::model
