// Gemma 3, its text models: Gemma 2 with normed queries and keys in place of capped scores, a window in five of six
// layers, and another rotary base there.
#include "list.h"

namespace nibble::inline NIBBLE_ABI::model::tables {

namespace {

using enum Role;
using enum Size;
using enum Input;
using enum Bias;

constexpr Module kBlock[] = {
    {attention_norm, "input_layernorm", "attn_norm", hidden},
    {query, "self_attn.q_proj", "attn_q", queries, hidden, attention, attention_norm, none, "attention_bias"},
    {key, "self_attn.k_proj", "attn_k", keys, hidden, attention, attention_norm, none, "attention_bias"},
    {value, "self_attn.v_proj", "attn_v", keys, hidden, attention, attention_norm, none, "attention_bias"},
    {query_norm, "self_attn.q_norm", "attn_q_norm", head},
    {key_norm, "self_attn.k_norm", "attn_k_norm", head},
    {attention_output, "self_attn.o_proj", "attn_output", hidden, queries, heads, value, none, "attention_bias"},
    {attention_post_norm, "post_attention_layernorm", "post_attention_norm", hidden},
    {ffn_norm, "pre_feedforward_layernorm", "ffn_norm", hidden},
    {gate, "mlp.gate_proj", "ffn_gate", intermediate, hidden, ffn, ffn_norm},
    {up, "mlp.up_proj", "ffn_up", intermediate, hidden, ffn, ffn_norm},
    {down, "mlp.down_proj", "ffn_down", hidden, intermediate, gated, up},
    {ffn_post_norm, "post_feedforward_layernorm", "post_ffw_norm", hidden},
};

}  // namespace

constinit const Architecture gemma3{
    .model_type = "gemma3_text",
    .class_name = "Gemma3ForCausalLM",
    .gguf_architecture = "gemma3",
    .block = kBlock,
    .activation = GatedActivation::gelu_tanh,
    .activation_key = "hidden_activation",
    .norm_plus_one = true,
    .scaled_embedding = true,
    .query_pre_attn_scalar = 256,
    .logit_cap = 0,
    .gguf_layers_by_hidden = 62,
    .context = std::size_t{1} << 17,
    .kv_heads = 4,
    .head_dim = 256,
    .windows = Windows::pattern,
    .window = 4096,
    .window_pattern = 6,
    .window_pattern_key = "sliding_window_pattern",
    .rope_theta = 1e6,
    .window_rope_theta = 1e4,
    .tied_embeddings = true,
};

}  // namespace nibble::inline NIBBLE_ABI::model::tables
