// Qwen3 (dense): Qwen2 with a norm on each head's query and key in place of the biases, and heads of 128 values
// whatever the hidden size.
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
    {ffn_norm, "post_attention_layernorm", "ffn_norm", hidden},
    {gate, "mlp.gate_proj", "ffn_gate", intermediate, hidden, ffn, ffn_norm},
    {up, "mlp.up_proj", "ffn_up", intermediate, hidden, ffn, ffn_norm},
    {down, "mlp.down_proj", "ffn_down", hidden, intermediate, gated, up},
};

}  // namespace

constinit const Architecture qwen3{
    .model_type = "qwen3",
    .class_name = "Qwen3ForCausalLM",
    .gguf_architecture = "qwen3",
    .block = kBlock,
    .context = 32768,
    .kv_heads = 32,
    .head_dim = 128,
    .windows = Windows::if_used,
    .window = 4096,
    .full_layers = 28,
};

}  // namespace nibble::inline NIBBLE_ABI::model::tables
