// GLM-4-0414 (dense): gate and up in one layer, norms behind attention and the feed-forward layer as well as before,
// and of each head the first half turned, neighbour by neighbour in Hugging Face's files and in GGUF.
#include "list.h"

namespace nibble::inline NIBBLE_ABI::model::tables {

namespace {

using enum Role;
using enum Size;
using enum Input;
using enum Bias;

constexpr Module kBlock[] = {
    {attention_norm, "input_layernorm", "attn_norm", hidden},
    {query, "self_attn.q_proj", "attn_q", queries, hidden, attention, attention_norm, needed, "attention_bias"},
    {key, "self_attn.k_proj", "attn_k", keys, hidden, attention, attention_norm, needed, "attention_bias"},
    {value, "self_attn.v_proj", "attn_v", keys, hidden, attention, attention_norm, needed, "attention_bias"},
    {attention_output, "self_attn.o_proj", "attn_output", hidden, queries, heads, value},
    {attention_post_norm, "post_self_attn_layernorm", "post_attention_norm", hidden},
    {ffn_norm, "post_attention_layernorm", "ffn_norm", hidden},
    {gate_up, "mlp.gate_up_proj", "ffn_up", gates_ups, hidden, ffn, ffn_norm},
    {down, "mlp.down_proj", "ffn_down", hidden, intermediate, gated, gate_up},
    {ffn_post_norm, "post_mlp_layernorm", "post_ffw_norm", hidden},
};

}  // namespace

constinit const Architecture glm4{
    .model_type = "glm4",
    .class_name = "Glm4ForCausalLM",
    .gguf_architecture = "glm4",
    .block = kBlock,
    .rope_pairs = RopePairs::neighbours,
    .context = std::size_t{1} << 17,
    .kv_heads = 2,
    .head_dim = 128,
    .rms_eps = 1.5625e-7,
    .partial_rotary_factor = 0.5,
};

}  // namespace nibble::inline NIBBLE_ABI::model::tables
