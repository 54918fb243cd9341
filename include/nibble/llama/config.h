// The hyper-parameters of a Llama-family model, as Hugging Face's config.json states them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::llama {

/// Rotary-embedding scaling of long-context models.
struct RopeScaling {
  enum class Kind { linear, llama3, factors } kind = Kind::linear;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  ///< llama3 only
  double original_context = 8192;                    ///< llama3 only: original_max_position_embeddings
  std::vector<float> factors;  ///< factors only: what each of the head_dim/2 frequencies is divided by (GGUF).
};

/// Llama 2 and 3, Mistral, Qwen2 and SmolLM2 differ only in these values.
struct Config {
  std::string model_type;  ///< "llama", "mistral" or "qwen2".
  std::size_t hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0, context = 0;
  double rms_eps = 1e-6;
  double rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling;
  std::size_t sliding_window = 0;  ///< 0: none. Otherwise a token sees itself and the sliding_window − 1 before it.
  bool tied_embeddings = false;
  std::string quantization;  ///< quantization_config as JSON text, empty if there is none.
  std::optional<std::int32_t> bos;
  std::vector<std::int32_t> eos;  ///< Any of these ends a text; files state one or a list.

  /// Checks every field it needs; Error{corrupt_file | unsupported} names the field and its value. `name` is for
  /// messages.
  static Config parse(std::string_view json, const std::string& name);
  /// Reads <model>/config.json, or the metadata of a .gguf file.
  static Config load(const std::filesystem::path& model);
  /// The head_dim/2 rotary frequencies in radians a token, scaling applied.
  [[nodiscard]] std::vector<double> inverse_frequencies() const;
};

}  // namespace nibble::llama
