// Mixtral: Mistral with several feed-forward layers in each block, of which a router chooses a token's. Its GGUF files
// say "llama".
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
    {router, "block_sparse_moe.gate", "ffn_gate_inp", experts, hidden},
    {gate, "block_sparse_moe.experts.*.w1", "ffn_gate_exps", intermediate, hidden, ffn, ffn_norm},
    {up, "block_sparse_moe.experts.*.w3", "ffn_up_exps", intermediate, hidden, ffn, ffn_norm},
    {down, "block_sparse_moe.experts.*.w2", "ffn_down_exps", hidden, intermediate, gated, up},
};

}  // namespace

constinit const Architecture mixtral{
    .model_type = "mixtral",
    .class_name = "MixtralForCausalLM",
    .gguf_architecture = "llama",
    .block = kBlock,
    .gguf_interleaved_rope = true,
    .gguf_rope_factors = true,
    .context = std::size_t{1} << 17,
    .kv_heads = 8,
    .windows = Windows::always,
    .rms_eps = 1e-5,
    .rope_theta = 1e6,
    .experts_key = "num_local_experts",
    .experts = 8,
    .experts_per_token = 2,
};

}  // namespace nibble::inline NIBBLE_ABI::model::tables
