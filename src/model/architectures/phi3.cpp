// Phi-3 and Phi-4: Llama with query, key and value in one layer and gate and up in another, of whose heads some models
// turn a part only. Those of long texts scale rotary embeddings by the length (longrope), which is an error. llama.cpp
// reads the sliding window of their GGUF files and does without.
#include "list.h"

namespace nibble::inline NIBBLE_ABI::model::tables {

namespace {

using enum Role;
using enum Size;
using enum Input;

constexpr Module kBlock[] = {
    {attention_norm, "input_layernorm", "attn_norm", hidden},
    {query_key_value, "self_attn.qkv_proj", "attn_qkv", queries_keys_values, hidden, attention, attention_norm},
    {attention_output, "self_attn.o_proj", "attn_output", hidden, queries, heads, query_key_value},
    {ffn_norm, "post_attention_layernorm", "ffn_norm", hidden},
    {gate_up, "mlp.gate_up_proj", "ffn_up", gates_ups, hidden, ffn, ffn_norm},
    {down, "mlp.down_proj", "ffn_down", hidden, intermediate, gated, gate_up},
};

}  // namespace

constinit const Architecture phi3{
    .model_type = "phi3",
    .class_name = "Phi3ForCausalLM",
    .gguf_architecture = "phi3",
    .block = kBlock,
    .context = 4096,
    .windows = Windows::always,
    .rms_eps = 1e-5,
    .partial_rotary_factor = 1,
};

}  // namespace nibble::inline NIBBLE_ABI::model::tables
