// Qwen3-MoE: Qwen3 with many small feed-forward layers in each block, of which a router chooses a token's. Models that
// keep some blocks dense (decoder_sparse_step, mlp_only_layers) are an error.
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
    {router, "mlp.gate", "ffn_gate_inp", experts, hidden},
    {gate, "mlp.experts.*.gate_proj", "ffn_gate_exps", expert_intermediate, hidden, ffn, ffn_norm},
    {up, "mlp.experts.*.up_proj", "ffn_up_exps", expert_intermediate, hidden, ffn, ffn_norm},
    {down, "mlp.experts.*.down_proj", "ffn_down_exps", hidden, expert_intermediate, gated, up},
};

}  // namespace

constinit const Architecture qwen3_moe{
    .model_type = "qwen3_moe",
    .class_name = "Qwen3MoeForCausalLM",
    .gguf_architecture = "qwen3moe",
    .block = kBlock,
    .context = 32768,
    .kv_heads = 4,
    .windows = Windows::if_used,
    .window = 4096,
    .experts_key = "num_experts",
    .experts = 128,
    .experts_per_token = 8,
    .expert_intermediate = 768,
    .norm_topk_prob = false,
};

}  // namespace nibble::inline NIBBLE_ABI::model::tables
