#include "known_keys.h"

#include <cstdio>

namespace nibble::inline NIBBLE_ABI::model {

namespace {

/// The value with which a key changes nothing; null is one for every key.
enum class Neutral { one, off, on, silu };

struct KnownKey {
  std::string_view json, gguf;  ///< Its names; empty where the file has no such key.
  Neutral neutral;
  std::string_view meaning;
  bool (*honoured)(const Architecture&) = nullptr;  ///< Null: in none.
};

bool takes_scalar(const Architecture& a) { return a.query_pre_attn_scalar != 0; }
bool caps_scores(const Architecture& a) { return a.attention_cap.has_value(); }
bool caps_logits(const Architecture& a) { return a.logit_cap.has_value(); }
bool has_pattern(const Architecture& a) { return a.windows == Windows::pattern; }
bool names_activation_so(const Architecture& a) { return a.activation_key == "hidden_activation"; }
bool turns_a_part(const Architecture& a) { return a.partial_rotary_factor != 0; }
bool has_experts(const Architecture& a) { return a.has_experts(); }
bool has_local_rope(const Architecture& a) { return a.window_rope_theta != 0; }

constexpr KnownKey kKeys[] = {
    // Rotary embeddings.
    {"partial_rotary_factor", "", Neutral::one, "turns a part of each head only", turns_a_part},
    {"rotary_pct", "", Neutral::one, "turns a part of each head only"},
    {"rotary_dim", "", Neutral::off, "turns a part of each head only"},
    {"rope_interleaved", "", Neutral::off, "pairs the values of a head otherwise"},
    {"no_rope_layers", "", Neutral::off, "leaves layers without rotary embeddings"},
    {"no_rope_layer_interval", "", Neutral::off, "leaves layers without rotary embeddings"},
    {"mrope_section", "rope.dimension_sections", Neutral::off, "splits positions into sections"},
    {"", "rope.scaling.attn_factor", Neutral::one, "scales the scores"},
    {"alibi", "attention.max_alibi_bias", Neutral::off, "adds a bias by distance to the scores"},
    {"use_alibi", "", Neutral::off, "adds a bias by distance to the scores"},
    // Attention.
    {"clip_qkv", "attention.clamp_kqv", Neutral::off, "clips queries, keys and values"},
    {"attention_multiplier", "attention.scale", Neutral::off, "replaces the scale of the scores"},
    {"query_pre_attn_scalar", "", Neutral::off, "replaces the scale of the scores", takes_scalar},
    {"attn_logit_softcapping", "attn_logit_softcapping", Neutral::off, "caps the scores", caps_scores},
    {"attn_temperature_tuning", "attention.temperature_scale", Neutral::off, "scales the scores by position"},
    {"attention_chunk_size", "attention.chunk_size", Neutral::off, "attends within chunks"},
    {"", "attention.sliding_window_pattern", Neutral::off, "gives a window to some layers only", has_pattern},
    {"rope_local_base_freq", "rope.freq_base_swa", Neutral::off, "turns heads otherwise in some layers",
     has_local_rope},
    {"is_causal", "attention.causal", Neutral::on, "lets tokens see those after them"},
    {"use_bidirectional_attention", "", Neutral::off, "lets tokens see those after them"},
    {"add_cross_attention", "", Neutral::off, "adds layers"},
    {"qk_norm", "", Neutral::off, "normalizes queries and keys"},
    {"use_qk_norm", "", Neutral::off, "normalizes queries and keys"},
    {"qk_layernorm", "", Neutral::off, "normalizes queries and keys"},
    {"attention_out_bias", "", Neutral::off, "adds a bias"},
    {"attention_output_bias", "", Neutral::off, "adds a bias"},
    // Blocks.
    {"parallel_attn", "use_parallel_residual", Neutral::off, "puts attention and MLP side by side"},
    {"use_parallel_residual", "", Neutral::off, "puts attention and MLP side by side"},
    {"hidden_activation", "", Neutral::silu, "names another activation", names_activation_so},
    {"num_local_experts", "", Neutral::off, "says that this is a mixture of experts", has_experts},
    {"num_experts", "", Neutral::off, "says that this is a mixture of experts", has_experts},
    {"n_routed_experts", "", Neutral::off, "says that this is a mixture of experts"},
    {"decoder_sparse_step", "interleave_moe_layer_step", Neutral::one, "leaves blocks without experts"},
    {"mlp_only_layers", "leading_dense_block_count", Neutral::off, "leaves blocks without experts"},
    {"", "expert_shared_count", Neutral::off, "adds an expert that sees every token"},
    {"", "expert_group_count", Neutral::off, "chooses experts by groups"},
    {"", "expert_gating_func", Neutral::one, "has the router weigh experts otherwise"},
    {"", "expert_weights_scale", Neutral::one, "scales what experts give"},
    {"", "expert_weights_norm", Neutral::on, "weights experts by their shares of what the router gives all"},
    // Scales along the way.
    {"embedding_multiplier", "embedding_scale", Neutral::one, "scales the embeddings"},
    {"scale_emb", "", Neutral::one, "scales the embeddings"},
    {"residual_multiplier", "residual_scale", Neutral::one, "scales what each block adds"},
    {"scale_depth", "", Neutral::off, "scales what each block adds"},
    {"logits_scaling", "logit_scale", Neutral::one, "scales the logits"},
    {"logit_scale", "", Neutral::one, "scales the logits"},
    {"dim_model_base", "", Neutral::off, "scales the logits"},
    {"final_logit_softcapping", "final_logit_softcapping", Neutral::off, "caps the logits", caps_logits},
};

/// Inside rope_parameters or rope_scaling.
constexpr KnownKey kRopeKeys[] = {
    {"partial_rotary_factor", "", Neutral::one, "turns a part of each head only", turns_a_part},
    {"attention_factor", "", Neutral::one, "scales the scores"},
    {"mscale", "", Neutral::one, "scales the scores"},
    {"mscale_all_dim", "", Neutral::one, "scales the scores"},
    {"mrope_section", "", Neutral::off, "splits positions into sections"},
    {"full_attention", "", Neutral::off, "gives each type of layer its own", has_local_rope},
    {"sliding_attention", "", Neutral::off, "gives each type of layer its own", has_local_rope},
};

bool is_neutral(const PlainValue& value, Neutral neutral) {
  if (std::holds_alternative<std::monostate>(value)) return true;
  const auto* flag = std::get_if<bool>(&value);
  const auto* number = std::get_if<double>(&value);
  const auto* text = std::get_if<std::string>(&value);
  switch (neutral) {
    case Neutral::one: return number != nullptr && *number == 1;
    case Neutral::off: return (flag != nullptr && !*flag) || (number != nullptr && *number == 0);
    case Neutral::on: return flag != nullptr && *flag;
    case Neutral::silu: return text != nullptr && (*text == "silu" || *text == "swish");
  }
  return false;
}

std::string shown(const PlainValue& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (const auto* text = std::get_if<std::string>(&value)) return "'" + text->substr(0, 60) + "'";
  char out[32];
  std::snprintf(out, sizeof out, "%g", std::get<double>(value));
  return out;
}

template <std::size_t N>
void check(const KnownKey (&table)[N], bool gguf, const Architecture& a, const auto& find, const auto& refuse) {
  for (const KnownKey& key : table) {
    const std::string_view name = gguf ? key.gguf : key.json;
    if (name.empty() || (key.honoured != nullptr && key.honoured(a))) continue;
    const std::optional<PlainValue> value = find(name);
    if (value && !is_neutral(*value, key.neutral))
      refuse(name, "is " + shown(*value) + ", which " + std::string(key.meaning) + "; this engine does not" +
                       (key.honoured != nullptr ? " in a " + std::string(a.model_type) + " model" : ""));
  }
}

}  // namespace

void check_known_keys(KeyStyle style, const Architecture& architecture,
                      const std::function<std::optional<PlainValue>(std::string_view key)>& find,
                      const std::function<void(std::string_view key, const std::string& why)>& refuse) {
  if (style == KeyStyle::rope_parameters) check(kRopeKeys, false, architecture, find, refuse);
  else check(kKeys, style == KeyStyle::gguf, architecture, find, refuse);
}

}  // namespace nibble::inline NIBBLE_ABI::model
