#include "nibble/llama/model.h"

#include "llama/gguf/weights.h"
#include "nibble/quantize/quantize.h"

namespace nibble::llama {

namespace {

constexpr std::string_view kLinearSuffixes[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                                "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                                "mlp.down_proj"};

}  // namespace

std::vector<std::string> block_linear_names(std::size_t index) {
  std::vector<std::string> out;
  for (std::string_view suffix : kLinearSuffixes)
    out.push_back("model.layers." + std::to_string(index) + "." + std::string(suffix));
  return out;
}

bool is_block_linear_weight(std::string_view tensor) {
  if (!tensor.starts_with("model.layers.") || !tensor.ends_with(".weight")) return false;
  tensor.remove_suffix(std::string_view(".weight").size());
  for (std::string_view suffix : kLinearSuffixes)
    if (tensor.ends_with(suffix)) return true;
  return false;
}

KvCache::KvCache(const Config& config, std::size_t max_tokens)
    : capacity_(max_tokens),
      width_(config.kv_heads * config.head_dim),
      keys_(config.layers, std::vector<float>(max_tokens * width_)),
      values_(keys_) {}

/// Reads tensors, checks their shapes, and turns them into what the forward pass wants.
class Model::Loader {
 public:
  Loader(const std::filesystem::path& path, const LoadOptions& options)
      : options_(options),
        backend_(options.backend ? *options.backend : default_backend()),
        executor_(options.executor ? *options.executor : default_executor()) {
    if (is_gguf(path)) gguf_.emplace(path);
    else checkpoint_ = Checkpoint::open(path);
  }

  Executor& executor() const { return executor_; }

  std::vector<float> vector(const std::string& name, std::size_t size) const {
    auto out = gguf_ ? gguf_->read_f32(name) : checkpoint_.read_f32(name);
    if (out.size() != size)
      throw Error(ErrorCode::shape_mismatch, "tensor '" + name + "' has " + std::to_string(out.size()) +
                                                 " values; the configuration needs " + std::to_string(size));
    return out;
  }

  Linear linear(const std::string& name, std::size_t out, std::size_t in, Model& model) const {
    Linear l{name, nullptr, {}};
    const auto count = static_cast<double>(out) * static_cast<double>(in);
    if (gguf_) {
      const BlockMatrix m = gguf_->matrix(name + ".weight");
      check_shape(name, m.rows, m.cols, out, in);
      const bool quantizes = options_.quantize && is_float(m.type);
      model.linear_bits_ += (quantizes ? options_.quantize->bits_per_weight(out, in) : m.bits_per_weight()) * count;
      if (quantizes)
        l.weight = backend_.pack(backend_.quantize(m.as_floats(), *options_.quantize, name + ".weight", executor_));
      else l.weight = pack(m);
      gguf_->release(name + ".weight");
    } else if (auto q = decode_quantized(checkpoint_, name)) {
      check_shape(name, q->rows, q->cols, out, in);
      model.linear_bits_ += q->spec.bits_per_weight(out, in) * count;
      l.weight = backend_.pack(*std::move(q));
    } else {
      const FloatMatrix m = checkpoint_.matrix(name + ".weight");
      check_shape(name, m.rows, m.cols, out, in);
      if (options_.quantize) {
        model.linear_bits_ += options_.quantize->bits_per_weight(out, in) * count;
        l.weight = backend_.pack(backend_.quantize(m, *options_.quantize, name + ".weight", executor_));
      } else {
        model.linear_bits_ += 8.0 * static_cast<double>(size_of(m.type)) * count;
        l.weight = backend_.pack(m);
      }
      checkpoint_.release(name + ".weight");
    }
    model.linear_weights_ += count;
    if (contains(name + ".bias")) l.bias = vector(name + ".bias", out);
    return l;
  }

  Layer layer(std::size_t index, Model& model) const {
    const Config& c = model.config_;
    const auto names = block_linear_names(index);
    const std::string prefix = "model.layers." + std::to_string(index) + ".";
    const std::size_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    Layer l;
    l.input_norm = vector(prefix + "input_layernorm.weight", c.hidden);
    l.post_norm = vector(prefix + "post_attention_layernorm.weight", c.hidden);
    l.q = linear(names[0], q, c.hidden, model);
    l.k = linear(names[1], kv, c.hidden, model);
    l.v = linear(names[2], kv, c.hidden, model);
    l.o = linear(names[3], c.hidden, q, model);
    l.gate = linear(names[4], c.intermediate, c.hidden, model);
    l.up = linear(names[5], c.intermediate, c.hidden, model);
    l.down = linear(names[6], c.hidden, c.intermediate, model);
    return l;
  }

  /// Embedding and final norm stay floating point; the head too, but in a few GPTQ models.
  void ends(Model& model) const {
    const Config& c = model.config_;
    const std::string embedding = "model.embed_tokens.weight";
    model.embedding_ = matrix(embedding);
    check_shape("model.embed_tokens", model.embedding_.rows, model.embedding_.cols, c.vocab, c.hidden);
    model.norm_ = vector("model.norm.weight", c.hidden);
    if (!gguf_ && layout_of(checkpoint_, "lm_head")) {
      model.head_ = linear("lm_head", c.vocab, c.hidden, model);
      return;
    }
    const bool tied = c.tied_embeddings || !contains("lm_head.weight");
    if (tied && !c.tied_embeddings)
      throw Error(ErrorCode::corrupt_file, "there is no tensor 'lm_head.weight', and the embeddings are not tied");
    const BlockMatrix head = tied ? model.embedding_ : matrix("lm_head.weight");
    check_shape("lm_head", head.rows, head.cols, c.vocab, c.hidden);
    model.head_ = {"lm_head", pack(head), {}};
  }

 private:
  bool contains(const std::string& name) const { return gguf_ ? gguf_->contains(name) : checkpoint_.contains(name); }
  /// A matrix that no format of layers is looked for in.
  BlockMatrix matrix(const std::string& name) const {
    if (gguf_) return gguf_->matrix(name);
    const FloatMatrix m = checkpoint_.matrix(name);
    const BlockType type = m.type == DType::f16    ? BlockType::f16
                           : m.type == DType::bf16 ? BlockType::bf16
                                                   : BlockType::f32;
    return {type, m.rows, m.cols, checkpoint_.data(name)};
  }
  /// Floats go to the backend as such: not every backend need know blocks.
  PackedMatrixPtr pack(const BlockMatrix& m) const {
    return is_float(m.type) ? backend_.pack(m.as_floats()) : backend_.pack(m);
  }
  static void check_shape(const std::string& name, std::size_t rows, std::size_t cols, std::size_t out,
                          std::size_t in) {
    if (rows == out && cols == in) return;
    throw Error(ErrorCode::shape_mismatch, "tensor '" + name + ".weight' is " + std::to_string(rows) + " × " +
                                               std::to_string(cols) + "; the configuration needs " +
                                               std::to_string(out) + " × " + std::to_string(in));
  }

  const LoadOptions& options_;
  const Backend& backend_;
  Executor& executor_;
  std::optional<GgufWeights> gguf_;  ///< Where there is one it holds the weights, else checkpoint_ does.
  Checkpoint checkpoint_;
};

Model Model::load(const std::filesystem::path& path, const LoadOptions& options) {
  Model model;
  model.config_ = Config::load(path);
  model.inverse_frequency_ = model.config_.inverse_frequencies();
  const Loader loader(path, options);
  model.executor_ = &loader.executor();
  model.activations_ = options.int8_activations ? Activations::int8 : Activations::fp32;
  loader.ends(model);
  for (std::size_t i = 0; i < model.config_.layers; ++i) {
    report(options.progress, static_cast<double>(i) / static_cast<double>(model.config_.layers),
           "loading layer " + std::to_string(i));
    model.layers_.push_back(loader.layer(i, model));
  }
  report(options.progress, 1, "loaded");
  return model;
}

std::size_t Model::weight_bytes() const {
  std::size_t bytes = embedding_.storage_bytes() + head_.weight->storage_bytes() + norm_.size() * sizeof(float);
  for (const Layer& l : layers_) {
    bytes += (l.input_norm.size() + l.post_norm.size()) * sizeof(float);
    for (const Linear* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down})
      bytes += m->weight->storage_bytes() + m->bias.size() * sizeof(float);
  }
  return bytes;
}

}  // namespace nibble::llama
