#include "gguf_checkpoint.h"

#include <cstring>
#include <map>
#include <mutex>

#include "gguf_weights.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

constexpr std::string_view kWeight = ".weight";

std::string layer_of(const std::string& weight) { return weight.substr(0, weight.size() - kWeight.size()); }

DType dtype_of(BlockType type) {
  return type == BlockType::f16 ? DType::f16 : type == BlockType::bf16 ? DType::bf16 : DType::f32;
}

std::vector<float> decoded(const BlockMatrix& m) {
  std::vector<float> out(m.rows * m.cols);
  for (std::size_t r = 0; r < m.rows; ++r) m.decode_row(r, out.data() + r * m.cols);
  return out;
}

Buffer buffer_of(const std::vector<float>& values) {
  Buffer out = Buffer::allocate(values.size() * sizeof(float));
  if (!values.empty()) std::memcpy(out.writable<std::byte>(), values.data(), out.size());
  return out;
}

class GgufTensors final : public TensorProvider {
 public:
  GgufTensors(const std::filesystem::path& path, GgufView view) : weights_(path) {
    for (const std::string& name : weights_.names()) {
      const GgufTensor t = weights_.info(name);
      if (t.unread != nullptr) (void)weights_.read_f32(name);  // refuses it, before any work
      if (view == GgufView::exact && weights_.config().architecture().is_linear_weight(name) && t.shape.size() == 2 &&
          exact_spec(t.type))
        add_layer(layer_of(name), t);
      else infos_.push_back({name, t.shape.size() == 2 ? dtype_of(t.type) : DType::f32, t.shape, 0, 0});
    }
    for (TensorInfo& t : infos_) {
      t.bytes = size_of(t.type);
      for (const std::size_t d : t.shape) t.bytes *= d;  // no overflow: its blocks lie in the file
    }
  }

  const std::vector<TensorInfo>& tensors() const override { return infos_; }

  Buffer data(const TensorInfo& tensor) const override {
    const std::lock_guard lock(mutex_);
    if (const auto it = made_.find(tensor.name); it != made_.end()) return it->second;
    if (const auto part = layers_.find(tensor.name); part != layers_.end()) {
      for (const NamedTensor& n :
           encode_quantized(CheckpointLayout::nibble, part->second, quantized(part->second), DType::f32))
        made_[n.name] = n.bytes;
      return made_.at(tensor.name);
    }
    if (tensor.shape.size() != 2) return made_[tensor.name] = buffer_of(weights_.read_f32(tensor.name));
    const BlockMatrix m = weights_.matrix(tensor.name);
    return made_[tensor.name] = is_float(m.type) ? m.blocks : buffer_of(decoded(m));
  }

  void release(const TensorInfo& tensor) const override {
    const std::lock_guard lock(mutex_);
    made_.erase(tensor.name);
    const auto part = layers_.find(tensor.name);
    weights_.release(part == layers_.end() ? tensor.name : part->second + std::string(kWeight));
  }

  void require_intact() const override { weights_.require_intact(); }

  std::optional<std::string> find_metadata(const std::string& key) const override {
    constexpr std::string_view prefix = "nibble.";
    const std::string layer = key.starts_with(prefix) ? key.substr(prefix.size()) : std::string();
    const std::lock_guard lock(mutex_);
    const auto it = entries_.find(layer);
    if (it == entries_.end()) return std::nullopt;
    // Q8_0 uses one code more in some files than in others: the values say which spec it is.
    if (it->second.empty())
      it->second = quantized_metadata(CheckpointLayout::nibble, layer, LayerDescription::of(quantized(layer)))->second;
    return it->second;
  }

 private:
  QuantizedMatrix quantized(const std::string& layer) const {
    return to_quantized(weights_.matrix(layer + std::string(kWeight)));
  }

  void add_layer(const std::string& layer, const GgufTensor& t) {
    entries_[layer];
    const LayerDescription description{*exact_spec(t.type), t.shape[0], t.shape[1], false, DType::f32};
    for (const NamedTensor& n : declare_quantized(CheckpointLayout::nibble, layer, description)) {
      infos_.push_back({n.name, n.type, n.shape, 0, 0});
      layers_.emplace(n.name, layer);
    }
  }

  GgufWeights weights_;
  std::vector<TensorInfo> infos_;
  std::map<std::string, std::string> layers_;  ///< Of each tensor of a quantized layer: the layer.
  mutable std::mutex mutex_;
  mutable std::map<std::string, Buffer> made_;          ///< Until released.
  mutable std::map<std::string, std::string> entries_;  ///< Metadata by layer, empty until asked for.
};

}  // namespace

Checkpoint open_checkpoint(const std::filesystem::path& path, GgufView view) {
  if (!is_gguf(path)) return Checkpoint::open(path);
  std::optional<QuantizationConfig> config;
  if (view == GgufView::exact) config = QuantizationConfig::parse(R"({"quant_method": "nibble"})", path.string());
  return Checkpoint::over(std::make_shared<GgufTensors>(path, view), std::move(config));
}

std::string gguf_quantization(const std::filesystem::path& path) {
  if (!is_gguf(path)) return {};
  const GgufWeights weights(path);
  const Architecture& architecture = weights.config().architecture();
  std::map<std::string_view, std::size_t> counts;
  for (const std::string& name : weights.names()) {
    if (!architecture.is_linear_weight(name) || architecture.expert_of(name).value_or(0) != 0) continue;
    if (const GgufTensor t = weights.info(name); !is_float(t.type)) ++counts[name_of(t.type)];
  }
  std::string out;
  for (const auto& [type, count] : counts)
    out +=
        (out.empty() ? "" : ", ") + std::to_string(count) + (out.empty() ? " tensors of " : " of ") + std::string(type);
  return out;
}

std::string requantization_note(const std::filesystem::path& path) {
  const std::string types = gguf_quantization(path);
  if (types.empty()) return {};
  return "the GGUF file is quantized already (" + types +
         "): its values were decoded and quantized a second time, at a loss";
}

}  // namespace nibble::inline NIBBLE_ABI::model
