// Mistral 7B and those after it: Llama without biases, with a sliding window in its first versions. Its GGUF files say
// "llama".
#include "list.h"

namespace nibble::inline NIBBLE_ABI::model::tables {

namespace {

using enum Role;
using enum Size;
using enum Input;

constexpr Module kBlock[] = {
    {attention_norm, "input_layernorm", "attn_norm", hidden},
    {query, "self_attn.q_proj", "attn_q", queries, hidden, attention, attention_norm},
    {key, "self_attn.k_proj", "attn_k", keys, hidden, attention, attention_norm},
    {value, "self_attn.v_proj", "attn_v", keys, hidden, attention, attention_norm},
    {attention_output, "self_attn.o_proj", "attn_output", hidden, queries, heads, value},
    {ffn_norm, "post_attention_layernorm", "ffn_norm", hidden},
    {gate, "mlp.gate_proj", "ffn_gate", intermediate, hidden, ffn, ffn_norm},
    {up, "mlp.up_proj", "ffn_up", intermediate, hidden, ffn, ffn_norm},
    {down, "mlp.down_proj", "ffn_down", hidden, intermediate, gated, up},
};

}  // namespace

constinit const Architecture mistral{
    .model_type = "mistral",
    .class_name = "MistralForCausalLM",
    .gguf_architecture = "llama",
    .block = kBlock,
    .gguf_interleaved_rope = true,
    .gguf_rope_factors = true,
    .context = std::size_t{1} << 17,
    .kv_heads = 8,
    .windows = Windows::always,
    .window = 4096,
};

}  // namespace nibble::inline NIBBLE_ABI::model::tables
