// Qwen2 and Qwen2.5: Llama with biases on query, key and value, which transformers always has (zero where none is
// stored), and a sliding window that files state and do not use unless they say so.
#include "list.h"

namespace nibble::inline NIBBLE_ABI::model::tables {

namespace {

using enum Role;
using enum Size;
using enum Input;
using enum Bias;

constexpr Module kBlock[] = {
    {attention_norm, "input_layernorm", "attn_norm", hidden},
    {query, "self_attn.q_proj", "attn_q", queries, hidden, attention, attention_norm, as_stored},
    {key, "self_attn.k_proj", "attn_k", keys, hidden, attention, attention_norm, as_stored},
    {value, "self_attn.v_proj", "attn_v", keys, hidden, attention, attention_norm, as_stored},
    {attention_output, "self_attn.o_proj", "attn_output", hidden, queries, heads, value},
    {ffn_norm, "post_attention_layernorm", "ffn_norm", hidden},
    {gate, "mlp.gate_proj", "ffn_gate", intermediate, hidden, ffn, ffn_norm},
    {up, "mlp.up_proj", "ffn_up", intermediate, hidden, ffn, ffn_norm},
    {down, "mlp.down_proj", "ffn_down", hidden, intermediate, gated, up},
};

}  // namespace

constinit const Architecture qwen2{
    .model_type = "qwen2",
    .class_name = "Qwen2ForCausalLM",
    .gguf_architecture = "qwen2",
    .block = kBlock,
    .context = 32768,
    .kv_heads = 32,
    .windows = Windows::if_used,
    .window = 4096,
    .full_layers = 28,
};

}  // namespace nibble::inline NIBBLE_ABI::model::tables
