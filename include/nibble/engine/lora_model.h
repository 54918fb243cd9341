// A model of the reference engine with an adapter that is trained: the weights stay packed, as they are, and have no
// gradient; what is trained is the adapter (Dettmers et al. 2023, "QLoRA", where the weights are NF4 with double
// quantization; here they are whatever the model was loaded as).
//
//   auto base = engine::Model::load("model", {.quantize = QuantSpec::parse("nf4-dq")});
//   auto adapter = model::Adapter::make(base.config(), {.rank = 16, .alpha = 32});
//   engine::LoraModel lora(base, adapter, {});
//   train::finetune(lora, rows, {}, options);
//   lora.adapter().save("adapter");
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nibble/core/dtype.h"
#include "nibble/engine/model.h"
#include "nibble/train/finetune.h"

namespace nibble::inline NIBBLE_ABI::engine {

struct LoraModelOptions {
  /// Keep of each block its input alone, and compute the rest again on the way back: the same bits for about a third
  /// more time, and memory for one block's activations in place of all blocks'.
  bool checkpointing = true;
  /// f32 or bf16. In bf16 the adapter is multiplied, and saved, as its values rounded to that; the optimizer goes on
  /// from them in fp32, as a step is often smaller than what bf16 tells apart (Micikevicius et al. 2018, section 3.1).
  DType adapter_type = DType::f32;
  /// f32 or bf16: what the state between blocks is rounded to; for the way back it is kept so, bf16 in half the
  /// memory. Within a block all is fp32.
  DType activation_type = DType::f32;
  std::uint64_t seed = 1;  ///< Of the masks of dropout (Adapter::dropout is its rate).
};

class LoraModel final : public train::Trainable {
 public:
  /// Takes a share of the base's weights. The magnitudes of an adapter with DoRA that are all 0 become the norms of the
  /// rows (so that it changes nothing yet). Errors of Adapter::check; invalid_argument for an adapter without layers,
  /// or another type than those named.
  LoraModel(const Model& base, model::Adapter adapter, const LoraModelOptions& options = {});
  ~LoraModel() override;
  LoraModel(const LoraModel&) = delete;
  LoraModel& operator=(const LoraModel&) = delete;

  /// lora_A, lora_B and the magnitudes of each layer, named as in PEFT's files.
  std::vector<train::Parameter> parameters() override;
  void clear_gradients() override;
  train::Loss add_gradients(const train::Row& row, std::uint64_t pass) override;
  train::Loss loss(const train::Row& row) override;
  /// The adapter's files, in adapter_type.
  void save(const std::filesystem::path& folder) const override;

  /// The two types.
  [[nodiscard]] std::map<std::string, std::string> description() const override;

  /// As it is now, in fp32.
  [[nodiscard]] const model::Adapter& adapter() const;
  /// Bytes that a pass over so many tokens holds beside the weights, adapter and gradients included.
  [[nodiscard]] std::size_t activation_bytes(std::size_t tokens) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::inline NIBBLE_ABI::engine
