#include "nibble/engine/model.h"

#include <algorithm>
#include <cmath>

#include "core/mapped_files.h"
#include "loader.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/memory.h"

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
    const auto add = [&](const Linear& l) {
      if (l) bytes += l.weight->storage_bytes() + l.bias.size() * sizeof(float);
    };
    std::ranges::for_each(block.linears, add);
    for (const Linears& expert : block.experts) std::ranges::for_each(expert, add);
    add(block.router);
  }
  return bytes;
}

void Embedding::look_up(std::span<const std::int32_t> ids, MatrixView<float> out, Executor& executor) const {
  if (head_) return head_->backend().gather_rows(*head_, ids, out, executor);
  for (std::size_t t = 0; t < ids.size(); ++t) rows_.decode_row(static_cast<std::size_t>(ids[t]), &out(t, 0));
  files::require_intact(rows_.blocks.data());  // they lie in the model's file
}

void Model::check_ids(std::span<const std::int32_t> ids) const {
  if (ids.empty()) throw Error(ErrorCode::invalid_argument, "forward: no tokens were given");
  for (std::size_t t = 0; t < ids.size(); ++t)
    if (ids[t] < 0 || static_cast<std::size_t>(ids[t]) >= config_.vocab)
      throw Error(ErrorCode::invalid_argument, "token " + std::to_string(t) + " is " + std::to_string(ids[t]) +
                                                   "; the vocabulary has ids 0 to " +
                                                   std::to_string(config_.vocab - 1));
}

void KvCache::check_room(const model::Config& config, std::size_t tokens) const {
  if (keys_.size() != config.layers || width_ != config.kv_heads * config.head_dim)
    throw Error(ErrorCode::shape_mismatch, "the cache was made for another model");
  if (tokens > capacity_ - size_)
    throw Error(ErrorCode::invalid_argument, std::to_string(tokens) +
                                                 " tokens do not fit the cache: " + std::to_string(size_) + " of " +
                                                 std::to_string(capacity_) + " are used");
}

std::vector<float> Model::forward(std::span<const std::int32_t> ids, KvCache& cache, bool last_only) const {
  check_ids(ids);
  const std::size_t n = ids.size();
  cache.check_room(config_, n);
  const RopeAngles rope(config_, cache.size(), n);
  const BlockPass pass(config_, *executor_, activations_, &hook_);
  std::vector<float> stream(n * config_.hidden);
  BlockPass::Scratch scratch;
  const MatrixView<float> x(stream.data(), n, config_.hidden);
  embedding_.look_up(ids, x, *executor_);
  scale_embedded(config_, x);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    pass.add_attention(blocks_[i], x, rope.of(blocks_[i]), cache.layer(i), scratch);
    pass.add_ffn(blocks_[i], x, scratch);
  }
  cache.append(n);
  const auto wanted = last_only ? x.row_range(n - 1, 1) : x;
  scratch.normed.resize(wanted.rows * config_.hidden);
  const MatrixView<float> normed(scratch.normed.data(), wanted.rows, config_.hidden);
  pass.norm(wanted, norm_, normed);
  std::vector<float> logits;
  needing_memory([&] { return "the logits of " + std::to_string(wanted.rows) + " tokens"; },
                 wanted.rows * config_.vocab * sizeof(float), [&] { logits.resize(wanted.rows * config_.vocab); });
  pass.linear(head_, normed, {logits.data(), wanted.rows, config_.vocab});
  if (const auto cap = static_cast<float>(config_.logit_cap); cap != 0)
    for (float& logit : logits) logit = std::tanh(logit / cap) * cap;
  return logits;
}

}  // namespace nibble::inline NIBBLE_ABI::engine
