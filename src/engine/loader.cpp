#include "loader.h"

#include "model/stored_weights.h"
#include "nibble/quantize/quantize.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

void check_shape(const std::string& name, std::size_t rows, std::size_t cols, std::size_t out, std::size_t in) {
  if (rows == out && cols == in) return;
  throw Error(ErrorCode::shape_mismatch, "tensor '" + name + ".weight' is " + std::to_string(rows) + " × " +
                                             std::to_string(cols) + "; the configuration needs " + std::to_string(out) +
                                             " × " + std::to_string(in));
}

}  // namespace

Loader::Loader(const std::filesystem::path& path, const model::Config& config, const LoadOptions& options)
    : config_(config),
      architecture_(config.architecture()),
      options_(options),
      backend_(options.backend ? *options.backend : default_backend()),
      executor_(options.executor ? *options.executor : default_executor()) {
  check_architecture(architecture_);
  if (is_gguf(path)) {
    gguf_.emplace(path);
    return;
  }
  checkpoint_ = Checkpoint::open(path);
  model::check_stored_weights(checkpoint_, config, path.string());
}

std::vector<float> Loader::vector(const std::string& name, std::size_t size) const {
  auto out = gguf_ ? gguf_->read_f32(name) : checkpoint_.read_f32(name);
  if (out.size() != size)
    throw Error(ErrorCode::shape_mismatch, "tensor '" + name + "' has " + std::to_string(out.size()) +
                                               " values; the configuration needs " + std::to_string(size));
  return out;
}

std::vector<float> Loader::norm_weight(const std::string& name, std::size_t size) const {
  std::vector<float> out = vector(name + ".weight", size);
  if (architecture_.norm_plus_one)
    for (float& w : out) w += 1;
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
      l.weight =
          backend_.pack(backend_.quantize(m.as_floats(), *options_.quantize, name + ".weight", executor_), executor_);
    else l.weight = pack(m);
  } else if (auto q = decode_quantized(checkpoint_, name)) {
    check_shape(name, q->rows, q->cols, out, in);
    linear_bits_ += q->spec.bits_per_weight(out, in) * count;
    l.weight = backend_.pack(*std::move(q), executor_);
  } else {
    const FloatMatrix m = checkpoint_.matrix(name + ".weight");
    check_shape(name, m.rows, m.cols, out, in);
    if (options_.quantize) {
      linear_bits_ += options_.quantize->bits_per_weight(out, in) * count;
      l.weight = backend_.pack(backend_.quantize(m, *options_.quantize, name + ".weight", executor_), executor_);
    } else {
      linear_bits_ += 8.0 * static_cast<double>(size_of(m.type)) * count;
      l.weight = backend_.pack(m, executor_);
    }
  }
  release(name + ".weight");
  linear_weights_ += count;
  if (contains(name + ".bias")) l.bias = vector(name + ".bias", out);
  return l;
}

Linear Loader::floats(const std::string& name, std::size_t out, std::size_t in) const {
  const BlockMatrix m = matrix(name + ".weight");
  check_shape(name, m.rows, m.cols, out, in);
  Linear packed{name, pack(m), {}};
  release(name + ".weight");
  return packed;
}

BlockMatrix Loader::matrix(const std::string& name) const {
  if (gguf_) return gguf_->matrix(name);
  const TensorInfo& t = checkpoint_.matrix_info(name);
  const BlockType type = t.type == DType::f16    ? BlockType::f16
                         : t.type == DType::bf16 ? BlockType::bf16
                                                 : BlockType::f32;
  return {type, t.shape[0], t.shape[1], checkpoint_.aligned_data(name)};
}

Block Loader::block(std::size_t index) {
  Block out;
  out.experts.resize(config_.experts);
  for (const model::BlockModule& m : architecture_.modules(index, config_.experts)) {
    const std::size_t rows = config_.elements(m->out), cols = config_.elements(m->in);
    if (m->is_norm()) out.norm(m->role) = norm_weight(m.name, rows);
    else if (!m->is_linear()) out.router = floats(m.name, rows, cols);
    else (m->is_expert() ? out.experts[m.expert] : out.linears)[m->role] = linear(m.name, rows, cols);
  }
  out.window = config_.window_of(index);
  if (gguf_) gguf_->require_intact();
  else checkpoint_.require_intact();
  return out;
}

std::size_t Loader::block_bytes() const {
  std::size_t elements = 0;
  for (const model::Module& m : architecture_.linears())
    elements += config_.elements(m.out) * config_.elements(m.in) * (m.is_expert() ? config_.experts : 1);
  return elements * sizeof(float);
}

BlockMatrix Loader::embedding() const {
  const std::string name(architecture_.embedding.name);
  BlockMatrix out = matrix(name + ".weight");
  check_shape(name, out.rows, out.cols, config_.vocab, config_.hidden);
  return out;
}

std::vector<float> Loader::norm() const {
  return norm_weight(std::string(architecture_.final_norm.name), config_.hidden);
}

Linear Loader::head() {
  const std::string own(architecture_.head.name);
  const bool stored_quantized = !gguf_ && layout_of(checkpoint_, own).has_value();
  head_is_embedding_ = config_.tied_embeddings && !stored_quantized;
  const std::string name = head_is_embedding_ ? std::string(architecture_.embedding.name) : own;
  if (!stored_quantized && !contains(name + ".weight"))
    throw Error(ErrorCode::corrupt_file, "there is no tensor '" + name + ".weight'" +
                                             (head_is_embedding_ ? "" : ", and the embeddings are not tied"));
  if (stored_quantized || (options_.quantize && options_.quantize_head)) {
    Linear head = linear(name, config_.vocab, config_.hidden);
    head.name = own;
    return head;
  }
  Linear head = floats(name, config_.vocab, config_.hidden);
  head.name = own;
  return head;
}

Embedding Loader::embedding(const Linear& head) const {
  if (head_is_embedding_ && backend_.has_gather_rows(*head.weight)) return Embedding(head.weight);
  return Embedding(embedding());
}

}  // namespace nibble::inline NIBBLE_ABI::engine
