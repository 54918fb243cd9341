// The quantization_config of a checkpoint: what its tensors do not say themselves.
//
//   auto config = nibble::QuantizationConfig::find("path/to/model");      // nothing for an unquantized model
//   config->of_layer("model.layers.0.mlp.down_proj").bits                 // overrides of single layers applied
//
// Keys that are read, by quant_method:
//   gptq                bits, group_size (−1: a row), sym, desc_act, checkpoint_format or format ("gptq", "gptq_v2"),
//                       pack_dtype, meta.quantizer, dynamic {"regex": {bits, group_size, sym, desc_act}, "-:regex": {}}
//   awq                 bits or w_bit, group_size or q_group_size, zero_point, version ("gemm", "gemv", "gemv_fast")
//   compressed-tensors  format, config_groups.*.{targets, format, weights.{num_bits, type, symmetric, strategy,
//                       group_size, actorder}}, or the name of a preset (W4A16) and its targets
// What these say and is not honoured (quantized activations and caches, sparsity, transforms, adapters) is refused.
// Others (bitsandbytes, nibble) describe themselves in their tensors; of them only quant_method is read.
// Sources: AutoGPTQ's and GPTQModel's quantize_config.json, AutoAWQ's quant_config.json, compressed-tensors' schema.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/matrix/quant_spec.h"

namespace nibble::inline NIBBLE_ABI {

/// How a layer was quantized, as a configuration states it: integer codes with a scale, or floats.
struct LayerQuantization {
  int bits = 4;
  Granularity granularity = Granularity::group;  ///< tensor, channel, group or tile.
  std::size_t group_size = 128;                  ///< Columns that share a scale, side of a tile; 0 for the others.
  bool symmetric = true;
  bool act_order = false;                 ///< desc_act, or actorder "group". Readers trust g_idx instead.
  std::optional<SchemeKind> floats = {};  ///< The format of codes that are floats: e4m3, e2m3, e2m1.
  bool tensor_scale = false;              ///< Floats: the tensor has a scale beside its groups'.
  std::string obstacle = {};              ///< Not empty: why layers of this kind are not read. Said when one is.

  friend bool operator==(const LayerQuantization&, const LayerQuantization&) = default;
};

namespace format {
class RuleIndex;
}

class QuantizationConfig {
 public:
  /// The first of quantize_config.json, quant_config.json and config.json's quantization_config that `model` has;
  /// nothing if there is none. Errors as parse().
  static std::optional<QuantizationConfig> find(const std::filesystem::path& model);
  /// JSON text of one of these files, or of the quantization_config alone; nothing for a config.json without one.
  /// `name` is for messages. Error{corrupt_file} names the field and its value; Error{unsupported} a layout of the
  /// method that is not read (marlin, say).
  static std::optional<QuantizationConfig> parse(std::string_view json, const std::string& name);

  /// quant_method: "gptq", "awq", "compressed-tensors", "bitsandbytes", …
  [[nodiscard]] const std::string& method() const { return method_; }
  /// The layout within the method, in lower case: "gptq", "gptq_v2"; "gemm", "gemv", "gemv_fast"; "pack-quantized".
  [[nodiscard]] const std::string& format() const { return format_; }
  /// GPTQ v1 files of GPTQModel, whose zero points had 1 taken from whole words (see gptq.h).
  [[nodiscard]] bool zeros_by_word() const { return zeros_by_word_; }
  /// Of this layer: the first rule that matches its name, else what holds for all.
  [[nodiscard]] const LayerQuantization& of_layer(const std::string& layer) const;

 private:
  friend class QuantizationConfigParser;
  struct Rule {
    std::string pattern;  ///< A name, or a regular expression that must match from the name's first letter.
    bool is_regex = false;
    LayerQuantization as;
  };

  std::string method_, format_;
  bool zeros_by_word_ = false;
  LayerQuantization base_;
  std::vector<Rule> rules_;
  std::shared_ptr<const format::RuleIndex> index_;  ///< Over rules_.
};

}  // namespace nibble::inline NIBBLE_ABI
