// Gemma 2: norms that multiply by 1 + weight, before and behind attention and the feed-forward layer; scaled
// embeddings, capped scores and logits; a window in every other layer.
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
    {attention_output, "self_attn.o_proj", "attn_output", hidden, queries, heads, value, none, "attention_bias"},
    {attention_post_norm, "post_attention_layernorm", "post_attention_norm", hidden},
    {ffn_norm, "pre_feedforward_layernorm", "ffn_norm", hidden},
    {gate, "mlp.gate_proj", "ffn_gate", intermediate, hidden, ffn, ffn_norm},
    {up, "mlp.up_proj", "ffn_up", intermediate, hidden, ffn, ffn_norm},
    {down, "mlp.down_proj", "ffn_down", hidden, intermediate, gated, up},
    {ffn_post_norm, "post_feedforward_layernorm", "post_ffw_norm", hidden},
};

}  // namespace

constinit const Architecture gemma2{
    .model_type = "gemma2",
    .class_name = "Gemma2ForCausalLM",
    .gguf_architecture = "gemma2",
    .block = kBlock,
    .activation = GatedActivation::gelu_tanh,
    .activation_key = "hidden_activation",
    .norm_plus_one = true,
    .scaled_embedding = true,
    .query_pre_attn_scalar = 256,
    .attention_cap = 50,
    .logit_cap = 30,
    .gguf_layers_by_hidden = 46,
    .context = 8192,
    .kv_heads = 4,
    .head_dim = 256,
    .windows = Windows::pattern,
    .window = 4096,
    .window_pattern = 2,
    .tied_embeddings = true,
};

}  // namespace nibble::inline NIBBLE_ABI::model::tables
