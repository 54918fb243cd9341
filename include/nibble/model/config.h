// The hyper-parameters of a model, as Hugging Face's config.json states them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/core/abi.h"
#include "nibble/model/architecture.h"

namespace nibble::inline NIBBLE_ABI::model {

/// Rotary-embedding scaling of long-context models.
struct RopeScaling {
  enum class Kind { linear, llama3, factors } kind = Kind::linear;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  ///< llama3 only
  double original_context = 8192;                    ///< llama3 only: original_max_position_embeddings
  std::vector<float> factors;  ///< factors only: what each of the frequencies is divided by (GGUF).
};

/// What two models of one architecture differ in.
///
/// Keys of config.json that change what a model computes are honoured as transformers honours them, or refused where
/// their value changes anything: src/model/known_keys.cpp lists those. Others are passed over.
struct Config {
  std::string model_type;  ///< That of an Architecture.
  std::size_t hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0, context = 0;
  double rms_eps = 1e-6;
  double rope_theta = 10000;
  std::size_t rotary_dim = 0;  ///< Of a head's values only the first so many are turned by their position; 0: all.
  std::optional<RopeScaling> rope_scaling;
  std::size_t sliding_window = 0;    ///< 0: none. Otherwise a token sees itself and the sliding_window − 1 before it.
  std::size_t full_layers = 0;       ///< So many of the first layers see everything all the same (max_window_layers).
  std::vector<bool> full_attention;  ///< For each layer whether it sees everything, in place of full_layers; or empty.
  double window_rope_theta = 0;      ///< rope_theta of layers with a window, unscaled there; 0: as in other layers.
  double query_pre_attn_scalar = 0;  ///< Scores are divided by its root; 0: by that of head_dim.
  double attention_cap = 0, logit_cap = 0;  ///< See Architecture; 0: none.
  std::size_t experts = 0;                  ///< Of each block; 0: it has one feed-forward layer, without a router.
  std::size_t experts_per_token = 0;        ///< So many of them see a token.
  std::size_t expert_intermediate = 0;      ///< Of an expert, where that is not `intermediate`.
  bool normalizes_experts = true;           ///< See Architecture::norm_topk_prob.
  std::array<Bias, kLinearRoles> biases{};  ///< By role; Bias::as_stored if nothing says otherwise.
  bool tied_embeddings = false;
  std::optional<std::int32_t> bos;
  std::vector<std::int32_t> eos;  ///< Any of these ends a text; files state one or a list.
  /// What the file says and no model of its type does, for the user to read.
  std::vector<std::string> notes;

  /// Checks every field it needs; Error{corrupt_file | unsupported} names the field and its value. `name` is for
  /// messages. Sizes are only held against each other here: before anything of such a size is allocated, Model::load,
  /// quantize_model and the like hold them against the tensors that there are.
  static Config parse(std::string_view json, const std::string& name);
  /// Reads <model>/config.json, or the metadata of a .gguf file.
  static Config load(const std::filesystem::path& model);
  /// That of the model_type. Error{unsupported} if it is none that is known.
  [[nodiscard]] const Architecture& architecture() const { return find_architecture(model_type); }
  /// A side of a weight, in elements.
  [[nodiscard]] std::size_t elements(Size size) const;
  [[nodiscard]] Bias bias_of(Role linear) const { return biases[static_cast<std::size_t>(linear)]; }
  /// The sliding window of layer `index`, or 0.
  [[nodiscard]] std::size_t window_of(std::size_t index) const;
  /// Whether some layers have a window and others none.
  [[nodiscard]] bool windows_differ() const { return full_layers != 0 || !full_attention.empty(); }
  /// Whether the layers without a window are those of Windows::pattern, every so many.
  [[nodiscard]] bool windows_repeat(std::size_t every) const;
  /// How many of a head's values are turned by their position.
  [[nodiscard]] std::size_t turned_dim() const { return rotary_dim != 0 ? rotary_dim : head_dim; }
  /// The turned_dim()/2 rotary frequencies in radians a token, scaling applied; of layers with a window or of those
  /// without.
  [[nodiscard]] std::vector<double> inverse_frequencies(bool with_window = false) const;
  /// What scores are multiplied by before the softmax.
  [[nodiscard]] float attention_scale() const;
};

}  // namespace nibble::inline NIBBLE_ABI::model
