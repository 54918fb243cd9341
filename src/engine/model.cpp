#include "nibble/engine/model.h"

#include "core/memory.h"
#include "loader.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

/// Of a cache: more than can be addressed must not wrap into few.
std::size_t elements(std::size_t tokens, std::size_t width) {
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(tokens, width * sizeof(float), &bytes))
    throw Error(ErrorCode::invalid_argument, "a cache of " + std::to_string(tokens) + " tokens cannot be addressed");
  return tokens * width;
}

}  // namespace

KvCache::KvCache(const model::Config& config, std::size_t max_tokens)
    : capacity_(max_tokens), width_(config.kv_heads * config.head_dim) {
  const std::size_t values = elements(max_tokens, width_);
  needing_memory([&] { return "the KV cache of " + std::to_string(max_tokens) + " tokens"; },
                 2 * config.layers * values * sizeof(float),
                 [&] {
                   keys_.assign(config.layers, std::vector<float>(values));
                   values_ = keys_;
                 });
}

Model Model::load(const std::filesystem::path& path, const LoadOptions& options) {
  Model model;
  model.config_ = model::Config::load(path);
  Loader loader(path, model.config_, options);
  model.executor_ = &loader.executor();
  model.activations_ = options.int8_activations ? Activations::int8 : Activations::fp32;
  model.norm_ = loader.norm();
  model.head_ = loader.head();
  model.embedding_ = loader.embedding(model.head_);
  for (std::size_t i = 0; i < model.config_.layers; ++i) {
    report(options.progress, static_cast<double>(i) / static_cast<double>(model.config_.layers),
           "loading layer " + std::to_string(i));
    needing_memory([&] { return "the weights of layer " + std::to_string(i); }, loader.block_bytes(),
                   [&] { model.blocks_.push_back(loader.block(i)); });
  }
  model.linear_bits_ = loader.linear_bits();
  model.linear_weights_ = loader.linear_weights();
  report(options.progress, 1, "loaded");
  return model;
}

std::size_t Model::weight_bytes() const {
  std::size_t bytes = embedding_.storage_bytes() + head_.weight->storage_bytes() + norm_.size() * sizeof(float);
  for (const Block& block : blocks_) {
    for (const std::vector<float>& norm : block.norms) bytes += norm.size() * sizeof(float);
    for (const Linear& l : block.linears) bytes += l.weight->storage_bytes() + l.bias.size() * sizeof(float);
  }
  return bytes;
}

}  // namespace nibble::inline NIBBLE_ABI::engine
