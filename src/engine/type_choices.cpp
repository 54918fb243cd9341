#include "nibble/engine/type_choices.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "calibrated_parts.h"
#include "log_softmax.h"
#include "matrix.h"
#include "model/calibrate_plan.h"
#include "model/calibrated_checkpoint.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/memory.h"
#include "nibble/engine/calibrate.h"
#include "nibble/engine/model.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

using model::TensorChoices;
using model::TypeChoice;

/// How far the model's predictions on a few sequences move when weights of it change.
class Divergence {
 public:
  Divergence(const Model& model, std::span<const std::int32_t> ids, std::size_t samples, std::size_t tokens)
      : model_(model), tokens_(std::min(ids.size(), tokens)), rope_(model.config(), 0, tokens_) {
    for (const std::size_t start : model::sample_starts(ids.size(), samples, tokens_))
      texts_.push_back(ids.subspan(start, tokens_));
    needing_memory([&] { return "the logits of " + std::to_string(tokens_ * texts_.size()) + " tokens"; },
                   tokens_ * texts_.size() * model.config().vocab * sizeof(float),
                   [&] {
                     begin(model.embedding());
                     states_ = begun_;
                     for (std::vector<float>& x : begun_) reference_.push_back(predict(x, 0, nullptr, model.head()));
                   });
  }

  /// With a block in place of one, which is the one that the states have come to.
  double of(const Block& changed) {
    return sum([&](std::size_t s) { begun_[s] = states_[s]; }, &changed, model_.head());
  }
  /// With another embedding, and the head that goes with it. (Of the first block's states.)
  double of(const Embedding& embedding, const Linear& head) {
    begin(embedding);
    return sum([](std::size_t) {}, nullptr, head);
  }
  /// With another head.
  double of(const Linear& head) { return of(model_.embedding(), head); }
  /// The states go on behind the block that they have come to.
  void advance() {
    for (std::vector<float>& x : states_) run(x, model_.blocks()[at_], at_);
    ++at_;
  }

 private:
  void begin(const Embedding& embedding) {
    begun_.assign(texts_.size(), std::vector<float>(tokens_ * model_.config().hidden));
    for (std::size_t s = 0; s < texts_.size(); ++s) {
      embedding.look_up(texts_[s], view(begun_[s]), model_.executor());
      scale_embedded(model_.config(), view(begun_[s]));
    }
  }

  template <class Prepare>
  double sum(const Prepare& prepare, const Block* changed, const Linear& head) {
    double kl = 0;
    for (std::size_t s = 0; s < texts_.size(); ++s) {
      prepare(s);
      const std::vector<float> now = predict(begun_[s], changed == nullptr ? 0 : at_, changed, head);
      const std::vector<float>& before = reference_[s];
      for (std::size_t i = 0; i < now.size(); ++i)
        kl += std::exp(static_cast<double>(before[i])) * static_cast<double>(before[i] - now[i]);
    }
    return std::max(kl / static_cast<double>(tokens_ * texts_.size()), 0.0);  // a rounding error below 0
  }

  /// Log-probabilities from the states at a block, `changed` in its place.
  std::vector<float> predict(std::vector<float>& x, std::size_t first, const Block* changed, const Linear& head) {
    for (std::size_t i = first; i < model_.blocks().size(); ++i)
      run(x, i == first && changed != nullptr ? *changed : model_.blocks()[i], i);
    const model::Config& c = model_.config();
    std::vector<float> normed(x.size()), logits(tokens_ * c.vocab);
    const BlockPass pass(c, model_.executor(), model_.activations(), nullptr);
    pass.norm(view(x), model_.final_norm(), view(normed));
    pass.linear(head, view(normed), {logits.data(), tokens_, c.vocab});
    const auto cap = static_cast<float>(c.logit_cap);
    for (std::size_t t = 0; t < tokens_; ++t) {
      const std::span<float> row = std::span(logits).subspan(t * c.vocab, c.vocab);
      if (cap != 0)
        for (float& v : row) v = std::tanh(v / cap) * cap;
      if (!log_softmax(row))
        throw Error(ErrorCode::non_finite,
                    "logits of token " + std::to_string(t) +
                        " are NaN or infinite: the model's own (nibble eval says where), or with "
                        "this tensor's codes");
    }
    return logits;
  }

  void run(std::vector<float>& x, const Block& block, std::size_t index) {
    cache_.emplace(model_.config(), tokens_);
    const BlockPass pass(model_.config(), model_.executor(), model_.activations(), nullptr);
    pass.add_attention(block, view(x), rope_.of(block), cache_->layer(index), scratch_);
    pass.add_ffn(block, view(x), scratch_);
  }

  [[nodiscard]] MatrixView<float> view(std::vector<float>& x) const { return {x.data(), tokens_, x.size() / tokens_}; }

  const Model& model_;
  std::size_t tokens_, at_ = 0;
  RopeAngles rope_;
  std::vector<std::span<const std::int32_t>> texts_;
  std::vector<std::vector<float>> states_;     ///< Of each sequence, at block at_.
  std::vector<std::vector<float>> begun_;      ///< What a pass is at.
  std::vector<std::vector<float>> reference_;  ///< Log-probabilities.
  std::optional<KvCache> cache_;
  BlockPass::Scratch scratch_;
};

/// One tensor: a layer's weights, or those of all experts.
struct Tensor {
  std::string name;                 ///< GGUF's.
  std::vector<std::string> layers;  ///< Of the checkpoint, without ".weight".
};

class Measure {
 public:
  Measure(const std::filesystem::path& path, std::span<const std::int32_t> ids, const TypeChoicesOptions& options)
      : options_(options),
        parts_(path, options.backend, options.executor),
        weights_(parts_.checkpoint),
        backend_(parts_.loader->backend()),
        executor_(parts_.loader->executor()),
        model_(Model::load(path, load_options())),
        divergence_(model_, ids, options.samples, length()) {}

  std::vector<TensorChoices> run() {
    const model::Config& c = parts_.config;
    const model::Architecture& a = parts_.architecture;
    const auto end = [&](const model::EndModule& m) {
      return Tensor{std::string(m.gguf_name) + ".weight", {std::string(m.name)}};
    };
    step(0, "the embedding");
    add(end(a.embedding), [&](std::vector<BlockMatrix>& m) {
      const Linear head = c.tied_embeddings ? packed(model_.head(), m.front()) : model_.head();
      return divergence_.of(Embedding(std::move(m.front())), head);
    });
    for (std::size_t i = 0; i < c.layers; ++i) {
      step(i + 1, "block " + std::to_string(i));
      for (const model::Module& m : a.block)
        if (m.is_linear()) add_layer(i, m);
      divergence_.advance();
    }
    step(c.layers + 1, "the head");
    if (!c.tied_embeddings)
      add(end(a.head), [&](std::vector<BlockMatrix>& m) { return divergence_.of(packed(model_.head(), m.front())); });
    report(options_.progress, 1, "measured");
    return std::move(found_);
  }

 private:
  [[nodiscard]] std::size_t length() const { return std::min(options_.sample_tokens, parts_.config.context); }
  [[nodiscard]] LoadOptions load_options() const {
    LoadOptions out;
    out.backend = &backend_;
    out.executor = &executor_;
    return out;
  }
  void step(std::size_t at, const std::string& what) {
    report(options_.progress, static_cast<double>(at) / static_cast<double>(parts_.config.layers + 2), what);
  }

  void add_layer(std::size_t block, const model::Module& m) {
    const model::Architecture& a = parts_.architecture;
    Tensor tensor{a.gguf_name(a.name(block, m) + ".weight"), {}};
    for (std::size_t e = 0; e < (m.is_expert() ? parts_.config.experts : 1); ++e)
      tensor.layers.push_back(a.name(block, m, e));
    add(tensor, [&](std::vector<BlockMatrix>& matrices) {
      Block changed = model_.blocks()[block];
      for (std::size_t e = 0; e < matrices.size(); ++e) {
        Linear& linear = (m.is_expert() ? changed.experts.at(e) : changed.linears)[m.role];
        linear = packed(linear, matrices[e]);
      }
      return divergence_.of(changed);
    });
  }

  [[nodiscard]] Linear packed(const Linear& before, const BlockMatrix& weights) const {
    Linear out = before;
    out.weight =
        is_float(weights.type) ? backend_.pack(weights.as_floats(), executor_) : backend_.pack(weights, executor_);
    return out;
  }

  /// `divergence`: of the model with these matrices in the tensor's place.
  template <class Of>
  void add(const Tensor& tensor, const Of& divergence) {
    TensorChoices out{tensor.name, {}};
    const FloatMatrix first = weights_.lend(tensor.layers.front());
    for (const BlockType type : kBlockTypes)
      if (can_encode(type) && first.cols % block_size(type) == 0 && type != BlockType::f32 && type != BlockType::bf16)
        out.choices.push_back(
            {type, tensor.layers.size() * first.rows * (first.cols / block_size(type)) * block_bytes(type), 0});
    for (std::size_t e = 0; e < tensor.layers.size(); ++e) add_losses(tensor, e, out.choices);
    const TypeChoice& tried = to_try(out.choices);
    double worth = 0;
    if (tried.loss > 0) {
      std::vector<BlockMatrix> matrices;
      for (std::size_t e = 0; e < tensor.layers.size(); ++e)
        matrices.push_back(BlockMatrix::encode(weights_.lend(tensor.layers[e]), tried.type, tensor.layers[e], executor_,
                                               importance(tensor, e, first.cols)));
      try {
        worth = divergence(matrices) / tried.loss;
      } catch (const Error& e) {
        if (e.code() != ErrorCode::non_finite) throw;
        throw Error(e.code(), "tensor '" + tensor.name + "' as " + std::string(name_of(tried.type)) + ": " + e.what());
      }
    }
    for (TypeChoice& c : out.choices) c.loss *= worth;
    found_.push_back(std::move(out));
  }

  /// The worst of those of more than three bits: its loss is large enough to be seen, and small enough to add up.
  static const TypeChoice& to_try(const std::vector<TypeChoice>& choices) {
    const TypeChoice* out = &choices.front();
    for (const TypeChoice& c : choices)
      if (8 * block_bytes(c.type) > 3 * block_size(c.type) && c.loss > out->loss) out = &c;
    return *out;
  }

  [[nodiscard]] std::vector<float> importance(const Tensor& tensor, std::size_t expert, std::size_t columns) const {
    if (options_.importance == nullptr) return {};
    const ImportanceMatrix::Entry* entry = options_.importance->find(tensor.name);
    if (entry != nullptr && entry->columns != columns) return {};  // an embedding that is listed as looked up
    return options_.importance->mean_squares(tensor.name, columns, expert, tensor.layers.size());
  }

  /// Of a sample of the rows, each of the choices' squared errors.
  void add_losses(const Tensor& tensor, std::size_t expert, std::vector<TypeChoice>& choices) {
    const FloatMatrix w = weights_.lend(tensor.layers[expert]);
    const std::vector<float> counts = importance(tensor, expert, w.cols);
    const std::size_t rows = std::min(w.rows, std::max<std::size_t>(1, options_.rows));
    Matrix sample(rows, w.cols);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < w.cols; ++c) sample(r, c) = w(r * w.rows / rows, c);
    std::vector<float> decoded(w.cols);
    for (TypeChoice& choice : choices) {
      const BlockMatrix m =
          BlockMatrix::encode(sample.view(), choice.type, tensor.layers[expert] + ".weight", executor_, counts);
      double loss = 0;
      for (std::size_t r = 0; r < rows; ++r) {
        m.decode_row(r, decoded.data());
        for (std::size_t c = 0; c < w.cols; ++c) {
          const auto error = static_cast<double>(sample(r, c) - decoded[c]);
          loss += error * error * (counts.empty() ? 1.0 : static_cast<double>(counts[c]));
        }
      }
      choice.loss += loss * static_cast<double>(w.rows) / static_cast<double>(rows);
    }
  }

  const TypeChoicesOptions& options_;
  CalibratedParts parts_;
  LentWeights weights_;
  const Backend& backend_;
  Executor& executor_;
  Model model_;
  Divergence divergence_;
  std::vector<TensorChoices> found_;
};

}  // namespace

std::vector<TensorChoices> type_choices(const std::filesystem::path& path, std::span<const std::int32_t> ids,
                                        const TypeChoicesOptions& options) {
  const std::unique_ptr<model::CalibratedModel> model = calibrated_model(path, options.backend, options.executor);
  model::check_ids(*model, ids);
  (void)model::CalibratedCheckpoint(path);  // refuses layers that are quantized already
  if (options.samples == 0 || options.sample_tokens < 2)
    throw Error(ErrorCode::invalid_argument, std::to_string(options.samples) + " samples of " +
                                                 std::to_string(options.sample_tokens) +
                                                 " tokens; at least one of two tokens is needed");
  return Measure(path, ids, options).run();
}

}  // namespace nibble::inline NIBBLE_ABI::engine
