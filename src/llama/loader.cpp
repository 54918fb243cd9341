#include "loader.h"

#include "config_check.h"
#include "nibble/quantize/quantize.h"

namespace nibble::llama {

namespace {

void check_shape(const std::string& name, std::size_t rows, std::size_t cols, std::size_t out, std::size_t in) {
  if (rows == out && cols == in) return;
  throw Error(ErrorCode::shape_mismatch, "tensor '" + name + ".weight' is " + std::to_string(rows) + " × " +
                                             std::to_string(cols) + "; the configuration needs " + std::to_string(out) +
                                             " × " + std::to_string(in));
}

}  // namespace

Loader::Loader(const std::filesystem::path& path, const Config& config, const LoadOptions& options)
    : config_(config),
      options_(options),
      backend_(options.backend ? *options.backend : default_backend()),
      executor_(options.executor ? *options.executor : default_executor()) {
  if (is_gguf(path)) gguf_.emplace(path);
  else {
    checkpoint_ = Checkpoint::open(path);
    check_config(config, checkpoint_);
  }
}

std::vector<float> Loader::vector(const std::string& name, std::size_t size) const {
  auto out = gguf_ ? gguf_->read_f32(name) : checkpoint_.read_f32(name);
  if (out.size() != size)
    throw Error(ErrorCode::shape_mismatch, "tensor '" + name + "' has " + std::to_string(out.size()) +
                                               " values; the configuration needs " + std::to_string(size));
  return out;
}

Linear Loader::linear(const std::string& name, std::size_t out, std::size_t in) {
  Linear l{name, nullptr, {}};
  const auto count = static_cast<double>(out) * static_cast<double>(in);
  if (gguf_) {
    const BlockMatrix m = gguf_->matrix(name + ".weight");
    check_shape(name, m.rows, m.cols, out, in);
    const bool quantizes = options_.quantize && is_float(m.type);
    linear_bits_ += (quantizes ? options_.quantize->bits_per_weight(out, in) : m.bits_per_weight()) * count;
    if (quantizes)
      l.weight = backend_.pack(backend_.quantize(m.as_floats(), *options_.quantize, name + ".weight", executor_));
    else l.weight = pack(m);
    gguf_->release(name + ".weight");
  } else if (auto q = decode_quantized(checkpoint_, name)) {
    check_shape(name, q->rows, q->cols, out, in);
    linear_bits_ += q->spec.bits_per_weight(out, in) * count;
    l.weight = backend_.pack(*std::move(q));
  } else {
    const FloatMatrix m = checkpoint_.matrix(name + ".weight");
    check_shape(name, m.rows, m.cols, out, in);
    if (options_.quantize) {
      linear_bits_ += options_.quantize->bits_per_weight(out, in) * count;
      l.weight = backend_.pack(backend_.quantize(m, *options_.quantize, name + ".weight", executor_));
    } else {
      linear_bits_ += 8.0 * static_cast<double>(size_of(m.type)) * count;
      l.weight = backend_.pack(m);
    }
    checkpoint_.release(name + ".weight");
  }
  linear_weights_ += count;
  if (contains(name + ".bias")) l.bias = vector(name + ".bias", out);
  return l;
}

BlockMatrix Loader::matrix(const std::string& name) const {
  if (gguf_) return gguf_->matrix(name);
  const FloatMatrix m = checkpoint_.matrix(name);
  const BlockType type = m.type == DType::f16    ? BlockType::f16
                         : m.type == DType::bf16 ? BlockType::bf16
                                                 : BlockType::f32;
  return {type, m.rows, m.cols, checkpoint_.data(name)};
}
Block Loader::block(std::size_t index) {
  const Config& c = config_;
  const auto names = block_linear_names(index);
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  const std::size_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  Block l;
  l.input_norm = vector(prefix + "input_layernorm.weight", c.hidden);
  l.post_norm = vector(prefix + "post_attention_layernorm.weight", c.hidden);
  l.q = linear(names[0], q, c.hidden);
  l.k = linear(names[1], kv, c.hidden);
  l.v = linear(names[2], kv, c.hidden);
  l.o = linear(names[3], c.hidden, q);
  l.gate = linear(names[4], c.intermediate, c.hidden);
  l.up = linear(names[5], c.intermediate, c.hidden);
  l.down = linear(names[6], c.hidden, c.intermediate);
  l.window = c.window_of(index);
  return l;
}

BlockMatrix Loader::embedding() const {
  BlockMatrix out = matrix("model.embed_tokens.weight");
  check_shape("model.embed_tokens", out.rows, out.cols, config_.vocab, config_.hidden);
  return out;
}

std::vector<float> Loader::norm() const { return vector("model.norm.weight", config_.hidden); }

Linear Loader::head(const BlockMatrix& embedding) {
  if (!gguf_ && layout_of(checkpoint_, "lm_head")) return linear("lm_head", config_.vocab, config_.hidden);
  const bool tied = config_.tied_embeddings || !contains("lm_head.weight");
  if (tied && !config_.tied_embeddings)
    throw Error(ErrorCode::corrupt_file, "there is no tensor 'lm_head.weight', and the embeddings are not tied");
  const BlockMatrix head = tied ? embedding : matrix("lm_head.weight");
  check_shape("lm_head", head.rows, head.cols, config_.vocab, config_.hidden);
  return {"lm_head", pack(head), {}};
}

}  // namespace nibble::llama
