#include "nibble/engine/lora_model.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "adapted.h"
#include "block_gradient.h"
#include "nibble/core/error.h"
#include "nibble/core/float_types.h"
#include "training_pass.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

/// What belongs to one layer of the adapter.
struct TrainedLayer {
  std::vector<float> grad_a, grad_b, grad_magnitude;
  std::vector<double> row_norms;  ///< ‖W_o‖², with DoRA.
  std::vector<float> inverse_norm, gain;
};

void check_type(const char* what, DType type) {
  if (type != DType::f32 && type != DType::bf16)
    throw Error(ErrorCode::invalid_argument,
                "LoraModel: " + std::string(what) + " are " + std::string(name_of(type)) + "; they can be f32 or bf16");
}

void round_to_bf16(const std::vector<float>& from, std::vector<float>& to) {
  to.resize(from.size());
  std::ranges::transform(from, to.begin(), [](float x) { return static_cast<float>(bf16(x)); });
}

}  // namespace

struct LoraModel::Impl {
  Model base;
  model::Adapter adapter;
  model::Adapter rounded;  ///< What is multiplied, where it is not `adapter` itself.
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
    require_trainable(base.config().architecture(), "LoraModel");
    adapter.check(base.config());
    check_type("adapters", options.adapter_type);
    check_type("activations", options.activation_type);
    if (adapter.layers.empty())
      throw Error(ErrorCode::invalid_argument, "the adapter has no layers, so there is nothing to train");
    for (std::size_t b = 0; b < blocks.size(); ++b)
      for (std::size_t role = 0; role < model::kLinearRoles; ++role) bind(b, role);
    if (options.adapter_type == DType::f32) return;
    rounded = adapter;
    for (Block& block : blocks)
      for (Linear& linear : block.linears)
        if (linear.adapter) linear.adapter = view_of(*rounded.find(linear.name), linear.adapter->gain);
  }
  [[nodiscard]] const model::Adapter& multiplied() const {
    return options.adapter_type == DType::f32 ? adapter : rounded;
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
    PartGradients& to = gradients[b][role];
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

  /// What follows from the parameters as they are. DoRA's norms have no gradient (Liu et al. 2024, section 4.3).
  void update() {
    if (options.adapter_type == DType::bf16)
      for (std::size_t i = 0; i < adapter.layers.size(); ++i) {
        round_to_bf16(adapter.layers[i].a, rounded.layers[i].a);
        round_to_bf16(adapter.layers[i].b, rounded.layers[i].b);
        round_to_bf16(adapter.layers[i].magnitude, rounded.layers[i].magnitude);
      }
    update_gains();
  }

  void update_gains() {
    for (const Block& block : blocks)
      for (const Linear& linear : block.linears) {
        if (!linear.adapter || linear.adapter->gain.empty()) continue;
        const model::AdapterLayer& layer = *multiplied().find(linear.name);
        TrainedLayer& trained = layers[static_cast<std::size_t>(&layer - multiplied().layers.data())];
        inverse_norms(*linear.weight, trained.row_norms, layer, trained.inverse_norm, executor());
        for (std::size_t o = 0; o < layer.out; ++o) trained.gain[o] = layer.magnitude[o] * trained.inverse_norm[o];
      }
  }

  [[nodiscard]] TrainingPass pass(const train::Dropout& dropout = {}) const {
    return {.base = base,
            .blocks = blocks,
            .gradients = gradients,
            .first_block = first_block,
            .checkpointing = options.checkpointing,
            .activations = options.activation_type,
            .dropout = dropout};
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
  impl_->update();
  return impl_->pass({.rate = static_cast<float>(impl_->adapter.dropout), .seed = impl_->options.seed, .stream = pass})
      .add_gradients(row);
}

train::Loss LoraModel::loss(const train::Row& row) {
  impl_->update();
  return impl_->pass().loss(row);
}

void LoraModel::save(const std::filesystem::path& folder) const {
  impl_->adapter.write(folder, impl_->options.adapter_type);
}

std::map<std::string, std::string> LoraModel::description() const {
  return {{"adapter type", std::string(name_of(impl_->options.adapter_type))},
          {"activation type", std::string(name_of(impl_->options.activation_type))}};
}

const model::Adapter& LoraModel::adapter() const { return impl_->adapter; }

std::size_t LoraModel::activation_bytes(std::size_t tokens) const {
  const model::Config& c = impl_->config();
  const std::size_t block = block_floats(c);
  const std::size_t states = c.layers * c.hidden * size_of(impl_->options.activation_type);
  const std::size_t kept =
      impl_->options.checkpointing ? states + sizeof(float) * block : sizeof(float) * c.layers * block;
  const std::size_t logits = std::min(tokens, logit_rows(c.vocab)) * c.vocab;
  const std::size_t copies = impl_->options.adapter_type == DType::f32 ? 2 : 3;
  return tokens * kept + sizeof(float) * (2 * logits + copies * impl_->adapter.parameters());
}

}  // namespace nibble::inline NIBBLE_ABI::engine
