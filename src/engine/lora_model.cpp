#include "nibble/engine/lora_model.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "adapted.h"
#include "block_gradient.h"
#include "nibble/core/error.h"
#include "nibble/engine/operations.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

/// What belongs to one layer of the adapter.
struct TrainedLayer {
  std::vector<float> grad_a, grad_b, grad_magnitude;
  std::vector<double> row_norms;  ///< ‖W_o‖², with DoRA.
  std::vector<float> inverse_norm, gain;
};

/// Rows of logits that are there at once: 64 MB of them, so that a long batch over a large vocabulary never has all.
std::size_t logit_rows(std::size_t vocabulary) {
  return std::max<std::size_t>(1, (std::size_t{16} << 20) / vocabulary);
}

void check_row(const train::Row& row, std::size_t vocabulary) {
  if (row.ids.size() != row.trained.size() || (!row.ids.empty() && (row.starts.empty() || row.starts.front() != 0)))
    throw Error(ErrorCode::shape_mismatch, "a row of " + std::to_string(row.ids.size()) + " tokens with " +
                                               std::to_string(row.trained.size()) + " marks and " +
                                               std::to_string(row.starts.size()) + " samples is none");
  for (std::size_t i = 1; i < row.starts.size(); ++i)
    if (row.starts[i] <= row.starts[i - 1] || row.starts[i] >= row.ids.size())
      throw Error(ErrorCode::invalid_argument, "sample " + std::to_string(i) + " of a row begins at token " +
                                                   std::to_string(row.starts[i]) + ", which is not behind the last");
  for (std::size_t t = 0; t < row.ids.size(); ++t)
    if (row.ids[t] < 0 || static_cast<std::size_t>(row.ids[t]) >= vocabulary)
      throw Error(ErrorCode::invalid_argument, "token " + std::to_string(t) + " is " + std::to_string(row.ids[t]) +
                                                   "; the vocabulary has ids 0 to " + std::to_string(vocabulary - 1));
}

}  // namespace

struct LoraModel::Impl {
  Model base;
  model::Adapter adapter;
  LoraModelOptions options;
  std::vector<Block> blocks;
  std::vector<TrainedLayer> layers;       ///< By place in the adapter.
  std::vector<BlockGradients> gradients;  ///< By block.
  std::size_t first_block = 0;            ///< The first with an adapter: before it nothing is trained.

  Impl(const Model& model, model::Adapter made, const LoraModelOptions& how)
      : base(model),
        adapter(std::move(made)),
        options(how),
        blocks(model.blocks()),
        layers(adapter.layers.size()),
        gradients(blocks.size()),
        first_block(blocks.size()) {
    adapter.check(base.config());
    if (adapter.layers.empty())
      throw Error(ErrorCode::invalid_argument, "the adapter has no layers, so there is nothing to train");
    for (std::size_t b = 0; b < blocks.size(); ++b)
      for (std::size_t role = 0; role < model::kLinearRoles; ++role) bind(b, role);
  }

  [[nodiscard]] const model::Config& config() const { return base.config(); }
  [[nodiscard]] Executor& executor() const { return base.executor(); }

  void bind(std::size_t b, std::size_t role) {
    Linear& linear = blocks[b].linears[role];
    linear.adapter.reset();
    const model::AdapterLayer* found = adapter.find(linear.name);
    if (found == nullptr) return;
    const auto place = static_cast<std::size_t>(found - adapter.layers.data());
    model::AdapterLayer& layer = adapter.layers[place];
    TrainedLayer& trained = layers[place];
    first_block = std::min(first_block, b);
    trained.grad_a.resize(layer.a.size());
    trained.grad_b.resize(layer.b.size());
    AdapterGradient& to = gradients[b][role];
    to = {.a = {trained.grad_a.data(), layer.rank, layer.in}, .b = {trained.grad_b.data(), layer.out, layer.rank}};
    if (!layer.magnitude.empty()) {
      trained.row_norms = squared_row_norms(*linear.weight, executor());
      if (std::ranges::all_of(layer.magnitude, [](float m) { return m == 0; }))
        for (std::size_t o = 0; o < layer.out; ++o)
          layer.magnitude[o] = static_cast<float>(std::sqrt(trained.row_norms[o]));
      trained.grad_magnitude.resize(layer.out);
      trained.inverse_norm.resize(layer.out);
      trained.gain.resize(layer.out);
      to.magnitude = trained.grad_magnitude;
      to.inverse_norm = trained.inverse_norm;
    }
    linear.adapter = view_of(layer, trained.gain);
  }

  /// DoRA's gains are those of the parameters as they are; its norms have no gradient (Liu et al. 2024, section 4.3).
  void update_gains() {
    for (const Block& block : blocks)
      for (const Linear& linear : block.linears) {
        if (!linear.adapter || linear.adapter->gain.empty()) continue;
        const model::AdapterLayer& layer = *adapter.find(linear.name);
        TrainedLayer& trained = layers[static_cast<std::size_t>(&layer - adapter.layers.data())];
        inverse_norms(*linear.weight, trained.row_norms, layer, trained.inverse_norm, executor());
        for (std::size_t o = 0; o < layer.out; ++o) trained.gain[o] = layer.magnitude[o] * trained.inverse_norm[o];
      }
  }

  /// The loss of what the last block gave, and its gradient, which `grad` begins as, if that is wanted. Only rows with
  /// a target meet the head.
  train::Loss head(MatrixView<const float> x, std::span<const std::size_t> targets, MatrixView<float> grad) const {
    std::vector<std::size_t> rows;
    for (std::size_t t = 0; t < targets.size(); ++t)
      if (targets[t] != train::kNoTarget) rows.push_back(t);
    train::Loss loss;
    const std::size_t most = logit_rows(config().vocab);
    for (std::size_t first = 0; first < rows.size(); first += most)
      loss += head_of(x, targets, std::span(rows).subspan(first, std::min(most, rows.size() - first)), grad);
    return loss;
  }

  [[nodiscard]] train::Loss head_of(MatrixView<const float> x, std::span<const std::size_t> targets,
                                    std::span<const std::size_t> rows, MatrixView<float> grad) const {
    const std::size_t n = rows.size();
    const Linear& head = base.head();
    Matrix states(n, x.cols), normed(n, x.cols), logits(n, config().vocab);
    std::vector<std::size_t> wanted(n);
    for (std::size_t i = 0; i < n; ++i) {
      std::ranges::copy(x.row(rows[i]), states.view().row(i).begin());
      wanted[i] = targets[rows[i]];
    }
    rms_norm(states.view(), base.final_norm(), config().rms_eps, normed.view());
    const LinearOutput output[] = {{head, logits.view()}};
    apply_linears(normed.view(), output, Activations::fp32, executor());
    const auto cap = static_cast<float>(config().logit_cap);
    if (cap != 0)
      each_row(executor(), n, [&](std::size_t r) {
        for (float& logit : logits.view().row(r)) logit = std::tanh(logit / cap) * cap;
      });
    const Matrix capped = cap != 0 && grad.data != nullptr ? logits : Matrix();
    const CrossEntropy result = cross_entropy(logits.view(), wanted, grad.data != nullptr ? 1.0f : 0.0f, executor());
    if (grad.data == nullptr) return {result.loss, result.targets};
    if (cap != 0)
      each_row(executor(), n, [&](std::size_t r) {
        for (std::size_t c = 0; c < config().vocab; ++c) {
          const float share = capped(r, c) / cap;
          logits(r, c) *= 1 - share * share;
        }
      });
    Matrix grad_normed(n, x.cols), grad_states = Matrix::zeros(n, x.cols);
    const LinearGradient back[] = {{head, logits.view()}};
    linear_gradients(normed.view(), back, grad_normed.view(), executor());
    rms_norm_gradient(states.view(), base.final_norm(), config().rms_eps, grad_normed.view(), grad_states.view(), {});
    for (std::size_t i = 0; i < n; ++i) std::ranges::copy(grad_states.view().row(i), grad.row(rows[i]).begin());
    return {result.loss, result.targets};
  }

  train::Loss pass(const train::Row& row, bool with_gradients, train::Dropout dropout) {
    check_row(row, config().vocab);
    if (row.ids.empty()) return {};
    update_gains();
    const std::size_t n = row.ids.size();
    const RowLayout layout(config(), row.starts, n);
    const BlockTraining training(config(), layout, dropout, executor());
    Matrix x(n, config().hidden);
    base.embedding().look_up(row.ids, x.view(), executor());
    scale_embedded(config(), x.view());
    std::vector<BlockTrace> traces(with_gradients ? blocks.size() : 0);
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      if (with_gradients && b >= first_block && options.checkpointing) traces[b].x = Matrix(x.view());
      BlockTrace trace = training.forward(blocks[b], b, x.view());
      if (with_gradients && b >= first_block && !options.checkpointing) traces[b] = std::move(trace);
    }
    const std::vector<std::size_t> targets = train::targets_of(row);
    if (!with_gradients) return head(x.view(), targets, {});
    Matrix grad = Matrix::zeros(n, config().hidden);
    const train::Loss loss = head(x.view(), targets, grad.view());
    for (std::size_t b = blocks.size(); b-- > first_block;) {
      if (options.checkpointing) {
        Matrix again = std::move(traces[b].x);
        traces[b] = training.forward(blocks[b], b, again.view());
      }
      training.backward(blocks[b], b, traces[b], gradients[b], b > first_block, grad.view());
      traces[b] = {};
    }
    return loss;
  }
};

LoraModel::LoraModel(const Model& base, model::Adapter adapter, const LoraModelOptions& options)
    : impl_(std::make_unique<Impl>(base, std::move(adapter), options)) {}
LoraModel::~LoraModel() = default;

std::vector<train::Parameter> LoraModel::parameters() {
  std::vector<train::Parameter> out;
  for (std::size_t i = 0; i < impl_->layers.size(); ++i) {
    model::AdapterLayer& layer = impl_->adapter.layers[i];
    const TrainedLayer& trained = impl_->layers[i];
    out.push_back({layer.name + ".lora_A.weight", layer.a, trained.grad_a});
    out.push_back({layer.name + ".lora_B.weight", layer.b, trained.grad_b});
    if (!layer.magnitude.empty())
      out.push_back({layer.name + ".lora_magnitude_vector", layer.magnitude, trained.grad_magnitude});
  }
  return out;
}

void LoraModel::clear_gradients() {
  for (TrainedLayer& layer : impl_->layers)
    for (std::vector<float>* gradient : {&layer.grad_a, &layer.grad_b, &layer.grad_magnitude})
      std::ranges::fill(*gradient, 0.0f);
}

train::Loss LoraModel::add_gradients(const train::Row& row, std::uint64_t pass) {
  return impl_->pass(row, true,
                     {.rate = static_cast<float>(impl_->adapter.dropout), .seed = impl_->options.seed, .stream = pass});
}

train::Loss LoraModel::loss(const train::Row& row) { return impl_->pass(row, false, {}); }

void LoraModel::save(const std::filesystem::path& folder) const { impl_->adapter.write(folder); }

const model::Adapter& LoraModel::adapter() const { return impl_->adapter; }

std::size_t LoraModel::activation_bytes(std::size_t tokens) const {
  const model::Config& c = impl_->config();
  const std::size_t queries = c.heads * c.head_dim, keys = c.kv_heads * c.head_dim;
  // A block's trace, and the gradients that the way back holds beside it.
  const std::size_t block = 9 * c.hidden + 4 * queries + 6 * keys + 6 * c.intermediate;
  const std::size_t kept = impl_->options.checkpointing ? c.layers * c.hidden + block : c.layers * block;
  const std::size_t logits = std::min(tokens, logit_rows(c.vocab)) * c.vocab;
  return sizeof(float) * (tokens * kept + 2 * logits + 2 * impl_->adapter.parameters());
}

}  // namespace nibble::inline NIBBLE_ABI::engine
