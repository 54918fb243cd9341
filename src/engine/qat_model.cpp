#include "nibble/engine/qat_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "adapted.h"
#include "nibble/core/error.h"
#include "nibble/train/weight_gradient.h"
#include "training_pass.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

/// A linear layer in training.
struct TrainedLinear {
  std::string name;
  train::FakeQuant quant;
  double unit = 1;            ///< The mean scale at the beginning.
  double scale_factor = 1;    ///< LSQ's, of the gradients of scales.
  std::vector<float> values;  ///< ŵ, which the packed weight may refer to.
  std::vector<float> grad_weights, grad_scales, grad_zero_points;

  explicit TrainedLinear(std::string layer, train::FakeQuant q)
      : name(std::move(layer)),
        quant(std::move(q)),
        values(quant.weights.size()),
        grad_weights(quant.weights.size()),
        grad_scales(quant.scales.size()),
        grad_zero_points(quant.zero_points.size()) {
    unit = std::accumulate(quant.scales.begin(), quant.scales.end(), 0.0) / static_cast<double>(quant.scales.size());
    const QuantSpec& s = quant.spec();
    const std::size_t n = s.granularity == Granularity::group ? std::min(s.group_size, quant.cols()) : quant.cols();
    scale_factor = train::scale_gradient_factor(n, s.bits);
  }
};

void check_rate(const char* name, double rate) {
  if (!(rate >= 0 && std::isfinite(rate)))
    throw Error(ErrorCode::invalid_argument,
                "QatModel: " + std::string(name) + " is " + std::to_string(rate) + "; it must be 0 or more");
}

void check(const QatModelOptions& o, const Model& base) {
  require_trainable(base.config().architecture(), "QatModel");
  check_rate("weight_rate", o.weight_rate);
  check_rate("scale_rate", o.scale_rate);
  check_rate("zero_point_rate", o.zero_point_rate);
  if (!(o.distillation >= 0 && o.distillation <= 1))
    throw Error(ErrorCode::invalid_argument,
                "QatModel: distillation is " + std::to_string(o.distillation) + "; it is a share, from 0 to 1");
  if (base.adapter() != nullptr)
    throw Error(ErrorCode::invalid_argument,
                "QatModel: the model has an adapter; `nibble quantize --adapter` merges it, and the result can be "
                "trained");
}

}  // namespace

struct QatModel::Impl {
  Model base;
  QatModelOptions options;
  std::vector<Block> blocks;
  std::vector<std::size_t> roles;         ///< Of a block's layers.
  std::vector<TrainedLinear> layers;      ///< By block and role.
  std::vector<BlockGradients> gradients;  ///< By block: all lead to `scratch`.
  std::vector<float> scratch;             ///< The gradients of one block's ŵ, zero between blocks.

  Impl(const Model& model, const QuantSpec& spec, const QatModelOptions& how)
      : base(model), options(how), blocks(model.blocks()), gradients(blocks.size()) {
    check(options, base);
    for (const model::Module& m : base.config().architecture().linears())
      roles.push_back(static_cast<std::size_t>(m.role));
    layers.reserve(blocks.size() * roles.size());
    std::size_t most = 0;
    for (const Block& block : blocks) {
      std::size_t size = 0;
      for (const std::size_t role : roles) {
        const Linear& linear = block.linears[role];
        layers.emplace_back(linear.name, grid_of(linear, spec));
        size += layers.back().quant.weights.size();
      }
      most = std::max(most, size);
    }
    scratch.resize(most);
    for (std::size_t b = 0; b < blocks.size(); ++b) bind(b);
  }

  [[nodiscard]] Executor& executor() const { return base.executor(); }
  [[nodiscard]] std::span<TrainedLinear> of_block(std::size_t b) {
    return std::span(layers).subspan(b * roles.size(), roles.size());
  }

  [[nodiscard]] train::FakeQuant grid_of(const Linear& linear, const QuantSpec& spec) const {
    const Matrix weights = decoded_rows(*linear.weight, 0, linear.weight->rows(), executor());
    if (options.start_from)
      if (const std::optional<QuantizedMatrix> from = options.start_from(linear.name))
        return train::FakeQuant(*from, weights.view(), linear.name, executor());
    return train::FakeQuant(spec, weights.view(), options.start, linear.name, executor());
  }

  void bind(std::size_t b) {
    float* at = scratch.data();
    for (std::size_t i = 0; i < roles.size(); ++i) {
      const TrainedLinear& layer = of_block(b)[i];
      gradients[b][roles[i]] = {.weight = {at, layer.quant.rows(), layer.quant.cols()}};
      at += layer.quant.weights.size();
    }
  }

  /// Packs ŵ of the parameters as they are.
  void update_weights() {
    for (std::size_t b = 0; b < blocks.size(); ++b)
      for (std::size_t i = 0; i < roles.size(); ++i) {
        TrainedLinear& layer = of_block(b)[i];
        const MatrixView<float> values(layer.values.data(), layer.quant.rows(), layer.quant.cols());
        layer.quant.values(values, executor());
        PackedMatrixPtr& weight = blocks[b].linears[roles[i]].weight;
        weight = base.blocks()[b].linears[roles[i]].weight->backend().pack(FloatMatrix(values), executor());
      }
  }

  /// From the gradients of a block's ŵ.
  void take_gradients(std::size_t b) {
    for (std::size_t i = 0; i < roles.size(); ++i) {
      TrainedLinear& layer = of_block(b)[i];
      train::FakeQuantGradients to{
          .scales = layer.grad_scales, .zero_points = layer.grad_zero_points, .scale_factor = layer.scale_factor};
      to.weights = {layer.grad_weights.data(), layer.quant.rows(), layer.quant.cols()};
      layer.quant.add_gradients(gradients[b][roles[i]].weight, to, executor());
    }
    std::ranges::fill(scratch, 0.0f);
  }

  [[nodiscard]] TrainingPass pass() {
    return {.base = base,
            .blocks = blocks,
            .gradients = gradients,
            .checkpointing = options.checkpointing,
            .distillation = options.distillation,
            .after_block = [this](std::size_t b) { take_gradients(b); }};
  }
};

QatModel::QatModel(const Model& base, const QuantSpec& spec, const QatModelOptions& options)
    : impl_(std::make_unique<Impl>(base, spec, options)) {}
QatModel::~QatModel() = default;

std::vector<train::Parameter> QatModel::parameters() {
  const QatModelOptions& o = impl_->options;
  std::vector<train::Parameter> out;
  for (TrainedLinear& layer : impl_->layers) {
    out.push_back({.name = layer.name + ".weight",
                   .values = layer.quant.weights,
                   .gradient = layer.grad_weights,
                   .rate = o.weight_rate * layer.unit});
    out.push_back({.name = layer.name + ".scales",
                   .values = layer.quant.scales,
                   .gradient = layer.grad_scales,
                   .decay = false,
                   .rate = o.scale_rate * layer.unit});
    if (!layer.quant.zero_points.empty())
      out.push_back({.name = layer.name + ".zero_points",
                     .values = layer.quant.zero_points,
                     .gradient = layer.grad_zero_points,
                     .decay = false,
                     .rate = o.zero_point_rate});
  }
  return out;
}

void QatModel::clear_gradients() {
  for (TrainedLinear& layer : impl_->layers)
    for (std::vector<float>* gradient : {&layer.grad_weights, &layer.grad_scales, &layer.grad_zero_points})
      std::ranges::fill(*gradient, 0.0f);
}

train::Loss QatModel::add_gradients(const train::Row& row, std::uint64_t) {
  impl_->update_weights();
  return impl_->pass().add_gradients(row);
}

train::Loss QatModel::loss(const train::Row& row) {
  impl_->update_weights();
  return impl_->pass().loss(row);
}

std::map<std::string, std::string> QatModel::description() const {
  std::set<std::string> specs;
  for (const TrainedLinear& layer : impl_->layers) specs.insert(layer.quant.spec().to_string());
  std::string method;
  for (const std::string& spec : specs) method += (method.empty() ? "" : " ") + spec;
  return {{"method", method}, {"distillation", std::to_string(impl_->options.distillation)}};
}

std::vector<std::string> QatModel::layers() const {
  std::vector<std::string> out;
  for (const TrainedLinear& layer : impl_->layers) out.push_back(layer.name);
  return out;
}

QuantizedMatrix QatModel::quantized(const std::string& layer) const {
  const auto found = std::ranges::find(impl_->layers, layer, &TrainedLinear::name);
  if (found == impl_->layers.end())
    throw Error(ErrorCode::not_found, "no trained layer has the name '" + layer +
                                          "'; there are those of the blocks, '" + impl_->layers.front().name +
                                          "' and so on");
  return found->quant.quantized(impl_->executor());
}

std::size_t QatModel::activation_bytes(std::size_t tokens) const {
  const model::Config& c = impl_->base.config();
  const std::size_t block = block_floats(c);
  const std::size_t kept = impl_->options.checkpointing ? c.layers * c.hidden + block : c.layers * block;
  const std::size_t logits = std::min(tokens, logit_rows(c.vocab)) * c.vocab;
  std::size_t weights = 0;
  for (const TrainedLinear& layer : impl_->layers) weights += layer.quant.weights.size();
  return sizeof(float) *
         (tokens * kept + (impl_->options.distillation != 0 ? 3 : 2) * logits + 4 * weights + impl_->scratch.size());
}

}  // namespace nibble::inline NIBBLE_ABI::engine
