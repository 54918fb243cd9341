// Rotary embeddings: what config.json says of them, and the frequencies that follow.
#include <cmath>
#include <numbers>

#include "config_rope.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

/// Where layers with a window have a base of their own: rope_local_base_freq, or an object for each type of layer
/// inside rope_parameters. Returns that of the layers without a window.
const Json* parse_window_rope(const Fields& fields, const std::string& name, const Architecture& architecture,
                              const Json* parameters, Config& c) {
  c.window_rope_theta = fields.number("rope_local_base_freq", architecture.window_rope_theta);
  if (parameters == nullptr) return nullptr;
  const Fields types(*parameters, name);
  const Json *full = types.object("full_attention"), *windowed = types.object("sliding_attention");
  if (full == nullptr && windowed == nullptr)
    fields.unsupported("rope_parameters", "has neither full_attention nor sliding_attention, and a " + c.model_type +
                                              " model has its own for each");
  if (windowed != nullptr) {
    const Fields rope(*windowed, name);
    rope.check_known(KeyStyle::rope_parameters, architecture);
    if (const std::string kind = rope.text("rope_type", "default"); kind != "default")
      types.unsupported("sliding_attention", "has the rope_type '" + kind.substr(0, 60) + "'; default is known there");
    c.window_rope_theta = rope.number("rope_theta", c.window_rope_theta);
  }
  return full;
}

/// int(head_dim·partial_rotary_factor), as in transformers, which takes the factor beside rope_theta in `rope` first.
void parse_rotary_dim(const Fields& fields, const Fields* rope, const Architecture& architecture, Config& c) {
  if (architecture.partial_rotary_factor == 0) return;
  constexpr const char* key = "partial_rotary_factor";
  double factor = fields.number(key, architecture.partial_rotary_factor);
  if (rope != nullptr) factor = rope->number(key, factor);
  const std::string stated = "is " + Json(factor).dump();
  if (factor > 1) fields.refuse(key, stated + "; a head has no more values than all");
  c.rotary_dim = static_cast<std::size_t>(static_cast<double>(c.head_dim) * factor);
  if (c.rotary_dim == 0 || c.rotary_dim % 2 != 0)
    fields.refuse(key, stated + ", so that " + std::to_string(c.rotary_dim) + " of the " + std::to_string(c.head_dim) +
                           " values of a head are turned; rotary embeddings turn pairs");
}

}  // namespace

void parse_rope(const Fields& fields, const std::string& name, const Architecture& architecture, Config& c) {
  c.rope_theta = fields.number("rope_theta", architecture.rope_theta);
  const Json *scaling = fields.object("rope_scaling"), *parameters = fields.object("rope_parameters");
  if (architecture.window_rope_theta != 0) parameters = parse_window_rope(fields, name, architecture, parameters, c);
  const Json* object = scaling != nullptr ? scaling : parameters;
  if (object == nullptr) return parse_rotary_dim(fields, nullptr, architecture, c);
  const Fields rope(*object, name);
  parse_rotary_dim(fields, &rope, architecture, c);
  rope.check_known(KeyStyle::rope_parameters, architecture);
  c.rope_theta = rope.number("rope_theta", c.rope_theta);
  if (scaling != nullptr && parameters != nullptr)
    if (const Fields other(*parameters, name); other.number("rope_theta", c.rope_theta) != c.rope_theta)
      fields.refuse("rope_parameters",
                    "and \"rope_scaling\" are both there and disagree about \"rope_theta\"; remove one");
  const std::string kind = rope.text("rope_type", rope.text("type", "default"));
  if (kind == "default") return;
  RopeScaling s;
  if (kind == "llama3") {
    s.kind = RopeScaling::Kind::llama3;
    s.low_freq_factor = rope.number("low_freq_factor", std::nullopt);
    s.high_freq_factor = rope.number("high_freq_factor", std::nullopt);
    s.original_context = static_cast<double>(
        fields.size("original_max_position_embeddings", rope.size("original_max_position_embeddings", c.context)));
    if (s.high_freq_factor <= s.low_freq_factor) rope.refuse("high_freq_factor", "must be above low_freq_factor");
  } else if (kind != "linear") {
    throw Error(ErrorCode::unsupported,
                "'" + name + "': rope_type '" + kind + "' is not known; default, linear and llama3 are");
  }
  s.factor = rope.number("factor", std::nullopt);
  c.rope_scaling = s;
}

std::vector<double> Config::inverse_frequencies(bool with_window) const {
  const bool of_its_own = with_window && window_rope_theta != 0;
  const double base = of_its_own ? window_rope_theta : rope_theta;
  std::vector<double> out(turned_dim() / 2);
  for (std::size_t i = 0; i < out.size(); ++i) {
    double f = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(turned_dim()));
    if (of_its_own) {
      out[i] = f;
      continue;
    }
    if (rope_scaling && rope_scaling->kind == RopeScaling::Kind::factors) {
      f /= static_cast<double>(rope_scaling->factors[i]);
    } else if (rope_scaling) {
      const RopeScaling& s = *rope_scaling;
      // Llama 3: long wavelengths are stretched, short ones kept, those between blended.
      const double turns = s.original_context * f / (2 * std::numbers::pi);
      double kept = 0;
      if (s.kind == RopeScaling::Kind::llama3)
        kept = turns > s.high_freq_factor  ? 1
               : turns < s.low_freq_factor ? 0
                                           : (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
      f = (1 - kept) * f / s.factor + kept * f;
    }
    out[i] = f;
  }
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
