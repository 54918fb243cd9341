#include "gguf_metadata.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

/// llama.cpp's number for "mostly this type" (general.file_type).
std::uint32_t file_type(BlockType type) {
  switch (type) {
    case BlockType::f16: return 1;
    case BlockType::q4_0: return 2;
    case BlockType::q4_1: return 3;
    case BlockType::q8_0: return 7;
    case BlockType::q5_0: return 8;
    case BlockType::q5_1: return 9;
    case BlockType::q2_k: return 10;
    case BlockType::q3_k: return 11;
    case BlockType::q4_k: return 14;
    case BlockType::q5_k: return 16;
    case BlockType::q6_k: return 18;
    case BlockType::iq4_nl: return 25;
    case BlockType::iq4_xs: return 30;
    case BlockType::bf16: return 32;
    case BlockType::mxfp4: return 38;
    default: return 0;
  }
}

}  // namespace

bool states_window(const Config& c) {
  if (c.architecture().windows == Windows::pattern) return c.sliding_window != 0;
  return c.sliding_window != 0 && !c.windows_differ();
}

GgufMetadata model_metadata(const Config& c, const std::string& name, BlockType type) {
  const std::string arch(c.architecture().gguf_architecture);
  GgufMetadata out{{"general.architecture", arch},
                   {"general.name", name},
                   {"general.type", std::string("model")},
                   {"general.quantization_version", std::uint32_t{2}},
                   {"general.file_type", file_type(type)}};
  const auto number = [&](const char* key, std::size_t value) {
    out[arch + "." + key] = static_cast<std::uint32_t>(value);
  };
  number("block_count", c.layers);
  number("context_length", c.context);
  number("embedding_length", c.hidden);
  number("feed_forward_length", c.intermediate);
  if (c.experts != 0) {
    number("expert_count", c.experts);
    number("expert_used_count", c.experts_per_token);
    if (c.expert_intermediate != 0) number("expert_feed_forward_length", c.expert_intermediate);
  }
  number("attention.head_count", c.heads);
  number("attention.head_count_kv", c.kv_heads);
  number("attention.key_length", c.head_dim);
  number("attention.value_length", c.head_dim);
  number("rope.dimension_count", c.turned_dim());
  number("vocab_size", c.vocab);
  if (states_window(c)) number("attention.sliding_window", c.sliding_window);
  out[arch + ".attention.layer_norm_rms_epsilon"] = static_cast<float>(c.rms_eps);
  out[arch + ".rope.freq_base"] = static_cast<float>(c.rope_theta);
  if (c.window_rope_theta != 0) out[arch + ".rope.freq_base_swa"] = static_cast<float>(c.window_rope_theta);
  if (c.attention_cap != 0) out[arch + ".attn_logit_softcapping"] = static_cast<float>(c.attention_cap);
  if (c.logit_cap != 0) out[arch + ".final_logit_softcapping"] = static_cast<float>(c.logit_cap);
  if (c.rope_scaling && c.rope_scaling->kind == RopeScaling::Kind::linear) {
    out[arch + ".rope.scaling.type"] = std::string("linear");
    out[arch + ".rope.scaling.factor"] = static_cast<float>(c.rope_scaling->factor);
  }
  return out;
}

std::vector<float> rope_factors(const Config& c) {
  if (!c.rope_scaling || c.rope_scaling->kind == RopeScaling::Kind::linear) return {};
  Config plain = c;
  plain.rope_scaling.reset();
  const auto scaled = c.inverse_frequencies(), unscaled = plain.inverse_frequencies();
  std::vector<float> out(scaled.size());
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(unscaled[i] / scaled[i]);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
