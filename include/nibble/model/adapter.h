// LoRA adapters of a model as files: those of PEFT (a folder with adapter_config.json and adapter_model.safetensors),
// and llama.cpp's (a GGUF file of the type "adapter").
//
//   auto adapter = nibble::model::Adapter::load("adapter");          // or "adapter.gguf"
//   for (const auto& layer : adapter.layers) …                        // "model.layers.0.self_attn.q_proj"
//   adapter.save("copy", DType::f32);
//
// Source: peft 0.21.2, tuners/lora and utils/save_and_load.py; llama.cpp's convert_lora_to_gguf.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/core/dtype.h"
#include "nibble/model/config.h"

namespace nibble::inline NIBBLE_ABI::model {

/// The adapter of one linear layer: y = W·x + scale·B·(A·x), or with a magnitude (DoRA: Liu et al. 2024)
/// y_o = magnitude_o/‖(W + scale·B·A)_o‖ · ((W + scale·B·A)·x)_o, the bias apart.
struct AdapterLayer {
  std::string name;  ///< Of the layer in the model: "model.layers.0.self_attn.q_proj".
  std::size_t in = 0, out = 0, rank = 0;
  double alpha = 0;
  bool rslora = false;           ///< The scale is α/√r in place of α/r (Kalajdzievski 2023).
  std::vector<float> a;          ///< [rank, in], PEFT's lora_A.weight.
  std::vector<float> b;          ///< [out, rank], lora_B.weight.
  std::vector<float> magnitude;  ///< [out], lora_magnitude_vector; empty: no DoRA.

  [[nodiscard]] float scale() const;
  [[nodiscard]] std::size_t parameters() const { return a.size() + b.size() + magnitude.size(); }
};

/// What an adapter is made with.
struct AdapterOptions {
  std::size_t rank = 16;
  double alpha = 32;
  double dropout = 0.05;  ///< While it is trained; kept for the file.
  bool rslora = false, dora = false;
  /// Names of layers, or their last parts; empty: every linear layer of every block ("all-linear").
  std::vector<std::string> target_modules = {};
  std::uint64_t seed = 1;
};

struct Adapter {
  std::string base_model;  ///< base_model_name_or_path, as the file has it.
  double dropout = 0;      ///< lora_dropout; nothing but training looks at it.
  std::vector<AdapterLayer>
      layers;  ///< From make() and load() in the natural order of names: "layers.2" before "layers.10".

  /// Null if that layer has none. It looks at one after the other.
  [[nodiscard]] const AdapterLayer* find(std::string_view layer) const;
  [[nodiscard]] std::size_t parameters() const;

  /// One that changes nothing yet, for the layers of a model of this configuration: A uniform in ±1/√in (PEFT's
  /// kaiming_uniform with a = √5), B zero. The magnitudes of DoRA are left 0, for whoever knows the weights. The same
  /// seed gives the same A on every machine, and a layer's A does not depend on which other layers have one.
  /// Error{invalid_argument} for a rank of 0, an α or dropout out of range, or a target that no layer is named by: it
  /// lists those that there are.
  static Adapter make(const Config& config, const AdapterOptions& options);

  /// A PEFT folder, or a GGUF file. A GGUF file of an architecture whose query and key rows lie in another order there
  /// (Architecture::gguf_interleaved_rope) needs the model's configuration to be read, unless it states the size of a
  /// head as those of save_gguf do: Error{invalid_argument} without, or for a model of another architecture. Nothing
  /// else looks at `model`; check() holds the layers against it. Errors name the file, the key and its value.
  /// Error{unsupported} for what changes the result and is not read: another peft_type, biases, embeddings,
  /// modules_to_save, target_parameters, layers that are replicated, an init_lora_weights that changed the base (PiSSA,
  /// OLoRA, CorDA, LoftQ and the like), a tensor that is no part of a LoRA pair. Error{corrupt_file} for a pair that
  /// lacks a half, shapes that do not fit, values that are no numbers.
  static Adapter load(const std::filesystem::path& path, const Config* model = nullptr);

  /// Each layer that the adapter has is a linear layer of one of the model's blocks, of its shape (an adapter of the
  /// head is none). Error{shape_mismatch | not_found} names it.
  void check(const Config& config) const;

  /// A new folder as PEFT reads it: adapter_config.json, adapter_model.safetensors (F32, F16 or BF16), README.md.
  /// Layers of another rank or α than most have are named in rank_pattern and alpha_pattern. Nothing has its name
  /// before all is written. Error{invalid_argument} if it exists, for layers of which some only have rsLoRA or DoRA,
  /// two of one name, no layers; Error{shape_mismatch}; Error{non_finite} for values that `type` cannot hold;
  /// Error{unsupported} for names by which PEFT would not tell the layers of another rank apart.
  void save(const std::filesystem::path& folder, DType type = DType::f32) const;
  /// The same file by file into a folder that is there, for a checkpoint in the making.
  void write(const std::filesystem::path& folder, DType type = DType::f32) const;
  /// As llama.cpp reads it beside the GGUF file of the model; a file of that name is replaced. It scales by α/r with
  /// one α for all layers, and of each the rank. Error{unsupported}: DoRA, and layers of different α, which the file
  /// has no room for; rsLoRA is written as the α that gives its scale, α·√r. Errors of check().
  void save_gguf(const std::filesystem::path& file, const Config& config, DType type = DType::f16) const;
};

}  // namespace nibble::inline NIBBLE_ABI::model
