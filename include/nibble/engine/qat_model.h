// Quantization-aware training over the reference engine: the linear layers of the blocks multiply by weights that are
// taken for quantized ones (train/fake_quant.h), and latent weights, scales and zero points are trained through the
// whole network, so that each layer makes up for what the others lose. What comes out is an ordinary quantized model.
//
//   auto base = engine::Model::load("model");                             // as it is: the teacher, too
//   engine::QatModel qat(base, QuantSpec::parse("int2-g32-asym"), {});
//   train::finetune(qat, rows, {}, options);                              // options.learning_rate: in steps of a grid
//   model::QuantizeModelOptions write;
//   write.spec = QuantSpec::parse("int2-g32-asym");
//   write.matrix = [&](const std::string& layer) { return qat.quantized(layer); };
//   model::quantize_model("model", "model-int2", write);
//
// The scales are learned as in LSQ (Esser et al. 2020), the zero points as in EfficientQAT (Chen et al. 2024), whose
// aim, all weights and grids trained at 2 and 3 bits on little data, this has; but end to end, not block by block, and
// by default on what the full-precision model says of each next token and not on the token itself (distillation, as in
// LLM-QAT, Liu et al. 2023): a text of a few hundred thousand bytes has little to say of five million weights, and the
// model's own probabilities much more. Embedding, norms, biases and head stay as they are.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nibble/engine/model.h"
#include "nibble/train/fake_quant.h"
#include "nibble/train/finetune.h"

namespace nibble::inline NIBBLE_ABI::engine {

struct QatModelOptions {
  train::GridStart start = train::GridStart::error;
  /// Layers that begin with the grids and codes of a matrix, of GPTQ say, by name: its spec, not the model's, then
  /// holds for them. Nothing for a layer: `start`. Null: for none.
  std::function<std::optional<QuantizedMatrix>(const std::string& layer)> start_from = {};
  /// Share of the loss that is KL(base‖model) over the next token, 0 to 1; the rest is cross-entropy.
  float distillation = 1;
  /// What a step of Adam's moves, as multiples of the learning rate. A layer's weights and scales are measured by its
  /// grid, of which the unit is the layer's mean scale at the beginning, zero points in codes: one rate then serves
  /// models and layers of any size. 0: not trained.
  double weight_rate = 1, scale_rate = 1, zero_point_rate = 1;
  bool checkpointing = true;  ///< As LoraModelOptions.
};

class QatModel final : public train::Trainable {
 public:
  /// Takes a share of the base's weights, and of each linear layer 16 bytes a weight: the latent one, its gradient, and
  /// twice what it is taken for, as it is and packed. Of one block it holds the gradients of what is multiplied by.
  /// Errors of FakeQuant, for each layer; invalid_argument for an option out of range, or a base with an adapter.
  QatModel(const Model& base, const QuantSpec& spec, const QatModelOptions& options = {});
  ~QatModel() override;
  QatModel(const QatModel&) = delete;
  QatModel& operator=(const QatModel&) = delete;

  /// "<layer>.weight", "<layer>.scales" and, of asymmetric specs, "<layer>.zero_points".
  std::vector<train::Parameter> parameters() override;
  void clear_gradients() override;
  /// The loss that is trained, distillation and all.
  train::Loss add_gradients(const train::Row& row, std::uint64_t pass) override;
  /// The cross-entropy.
  train::Loss loss(const train::Row& row) override;
  /// The share of distillation and the spec: the rest shows in the parameters' rates, of which checkpoints know.
  [[nodiscard]] std::map<std::string, std::string> description() const override;

  /// Layers that are trained, in the order of the blocks.
  [[nodiscard]] std::vector<std::string> layers() const;
  /// A layer as it is now. Error{not_found}: no layer has this name; those of FakeQuant::quantized.
  [[nodiscard]] QuantizedMatrix quantized(const std::string& layer) const;
  /// Bytes that a pass over so many tokens holds beside the weights, latent weights and gradients included.
  [[nodiscard]] std::size_t activation_bytes(std::size_t tokens) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::inline NIBBLE_ABI::engine
