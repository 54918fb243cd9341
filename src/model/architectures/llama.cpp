// Llama 1 to 3, and the many models that state its type: SmolLM2, TinyLlama, Yi.
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
    {ffn_norm, "post_attention_layernorm", "ffn_norm", hidden},
    {gate, "mlp.gate_proj", "ffn_gate", intermediate, hidden, ffn, ffn_norm, none, "mlp_bias"},
    {up, "mlp.up_proj", "ffn_up", intermediate, hidden, ffn, ffn_norm, none, "mlp_bias"},
    {down, "mlp.down_proj", "ffn_down", hidden, intermediate, gated, up, none, "mlp_bias"},
};

}  // namespace

constinit const Architecture llama{
    .model_type = "llama",
    .class_name = "LlamaForCausalLM",
    .gguf_architecture = "llama",
    .block = kBlock,
    .gguf_interleaved_rope = true,
    .gguf_rope_factors = true,
    .context = 2048,
};

}  // namespace nibble::inline NIBBLE_ABI::model::tables
