"""Writes variants.json with the real transformers library: what a model computes when one key of its config.json is
another.

  pip install torch transformers safetensors
  python make_variants_golden.py
  python make_variants_golden.py qwen3     # only the cases whose name begins so, and those not there yet

Each case takes one of the models beside this file, changes config.json (null in "without" removes keys), and holds the
logits after the last of the model's golden input_ids, float32.
"""
import json, pathlib, shutil, sys, tempfile
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
LINEAR = dict(rope_type="linear", factor=4.0)
DEFAULT = dict(rope_type="default", rope_theta=10000.0)
WINDOW = dict(use_sliding_window=True, sliding_window=16)
CASES = [
    ("qwen2_window_above_a_layer", "bias", dict(WINDOW, max_window_layers=1), ["layer_types"]),
    ("qwen2_window_in_every_layer", "bias", dict(WINDOW, max_window_layers=0), ["layer_types"]),
    ("qwen2_window_in_no_layer", "bias", dict(WINDOW, max_window_layers=2), ["layer_types"]),
    ("qwen2_window_above_28_layers_unless_stated", "bias", WINDOW, ["layer_types", "max_window_layers"]),
    ("qwen2_layer_types", "bias", dict(WINDOW, layer_types=["sliding_attention", "full_attention"]), []),
    ("qwen3_window_above_a_layer", "qwen3", dict(WINDOW, max_window_layers=1), ["layer_types"]),
    ("qwen3_window_unused", "qwen3", dict(sliding_window=16, max_window_layers=0), ["layer_types"]),
    ("qwen3_layer_types", "qwen3", dict(WINDOW, layer_types=["sliding_attention", "full_attention"]), []),
    ("llama_window_counts_for_nothing", "gqa_tied", dict(sliding_window=16), []),
    ("mistral_window_null", "mistral", dict(sliding_window=None), []),
    ("mistral_window_unstated", "mistral", {}, ["sliding_window"]),
    ("rope_scaling_beats_rope_parameters", "gqa_tied", dict(rope_scaling=LINEAR, rope_parameters=DEFAULT), []),
    ("empty_rope_scaling_does_not", "gqa_tied", dict(rope_scaling={}, rope_parameters=LINEAR), []),
    ("rope_theta_inside_beats_outside", "gqa_tied",
     dict(rope_theta=10000.0, rope_parameters=dict(rope_type="default", rope_theta=500000.0)), ["rope_scaling"]),
    ("llama3_from_the_context", "gqa_tied", dict(rope_scaling=LLAMA3, max_position_embeddings=256), []),
    ("llama3_from_outside", "gqa_tied",
     dict(rope_scaling=dict(LLAMA3, original_max_position_embeddings=64), original_max_position_embeddings=128), []),
    ("swish_is_silu", "gqa_tied", dict(hidden_act="swish"), []),
    ("epsilon_of_zero", "gqa_tied", dict(rms_norm_eps=0.0), []),
    ("pretraining_tp", "gqa_tied", dict(pretraining_tp=2), []),
    ("head_dim_null", "gqa_tied", dict(head_dim=None), []),
    ("gemma2_without_caps", "gemma2", dict(attn_logit_softcapping=None, final_logit_softcapping=None), []),
    ("gemma2_caps_unless_stated", "gemma2", {}, ["attn_logit_softcapping", "final_logit_softcapping"]),
    ("gemma2_another_scale", "gemma2", dict(query_pre_attn_scalar=24), []),
    ("gemma2_a_scale_unless_stated", "gemma2", {}, ["query_pre_attn_scalar"]),
    ("gemma2_windows_unless_stated", "gemma2", {}, ["layer_types"]),
    ("gemma2_layer_types", "gemma2", dict(layer_types=["full_attention", "sliding_attention"]), []),
    ("gemma2_hidden_act_counts_for_nothing", "gemma2", dict(hidden_act="silu"), []),
    ("gemma2_tied_unless_stated", "gemma2", {}, ["tie_word_embeddings"]),
    ("gemma3_in_the_published_form", "gemma3",
     dict(rope_theta=500000.0, rope_local_base_freq=20000.0, rope_scaling=dict(rope_type="linear", factor=8.0),
          sliding_window_pattern=6), ["rope_parameters", "layer_types", "_sliding_window_pattern"]),
    ("gemma3_another_pattern", "gemma3", dict(sliding_window_pattern=3), ["layer_types", "_sliding_window_pattern"]),
    ("gemma3_bases_unless_stated", "gemma3", {}, ["rope_parameters"]),
    ("gemma3_scaled_in_full_layers", "gemma3",
     dict(rope_parameters=dict(full_attention=dict(rope_type="linear", factor=4.0, rope_theta=1000000.0),
                               sliding_attention=dict(rope_type="default", rope_theta=30000.0))), []),
    ("gemma3_capped_logits", "gemma3", dict(final_logit_softcapping=4.0), []),
    ("phi3_window_null", "phi3", dict(sliding_window=None), []),
    ("phi3_window_unstated", "phi3", {}, ["sliding_window"]),
    ("phi3_whole_heads_unless_stated", "phi3", {}, ["rope_parameters"]),
    ("phi3_a_part_outside", "phi3", dict(partial_rotary_factor=0.5, rope_theta=500.0), ["rope_parameters"]),
    ("phi3_a_part_inside_beats_outside", "phi3", dict(partial_rotary_factor=0.5), []),
    ("phi3_a_part_rounded_down", "phi3", dict(partial_rotary_factor=0.4), ["rope_parameters"]),
    ("phi3_epsilon_unless_stated", "phi3", {}, ["rms_norm_eps"]),
    ("glm4_in_the_published_form", "glm4",
     dict(partial_rotary_factor=0.25, rope_theta=500.0, rope_scaling=None), ["rope_parameters"]),
    ("glm4_half_heads_unless_stated", "glm4", {}, ["rope_parameters"]),
    ("glm4_half_heads_unless_stated_inside", "glm4", dict(rope_parameters=DEFAULT), []),
    ("glm4_whole_heads", "glm4", dict(rope_parameters=dict(DEFAULT, partial_rotary_factor=1.0)), []),
    ("glm4_a_part_scaled", "glm4", dict(rope_parameters=dict(LINEAR, rope_theta=10000.0)), []),
    ("glm4_biases_epsilon_and_groups_unless_stated", "glm4", {},
     ["attention_bias", "rms_norm_eps", "num_key_value_heads"]),
    ("mixtral_window", "mixtral", dict(sliding_window=16), []),
    ("mixtral_one_expert_a_token", "mixtral", dict(num_experts_per_tok=1), []),
    ("mixtral_experts_by_their_other_name", "mixtral", dict(num_experts=4), ["num_local_experts"]),
    ("mixtral_unless_stated", "mixtral", {}, ["num_experts_per_tok", "rms_norm_eps", "rope_parameters"]),
    ("mixtral_normalizes_always", "mixtral", dict(norm_topk_prob=False), []),
    ("qwen3_moe_shares_of_all", "qwen3_moe", dict(norm_topk_prob=False), []),
    ("qwen3_moe_shares_of_all_unless_stated", "qwen3_moe", {}, ["norm_topk_prob"]),
    ("qwen3_moe_in_the_published_form", "qwen3_moe",
     dict(num_experts=6, rope_theta=5000.0, rope_scaling=None, sliding_window=16, max_window_layers=1),
     ["num_local_experts", "rope_parameters"]),
    ("qwen3_moe_window_in_every_layer", "qwen3_moe", dict(WINDOW, max_window_layers=1), []),
    ("qwen3_moe_every_expert", "qwen3_moe", dict(num_experts_per_tok=6), []),
    ("no_end_token", "gqa_tied", dict(bos_token_id=-1, eos_token_id=-1, pad_token_id=-1), []),
]


def main():
    here = pathlib.Path(__file__).resolve().parent
    torch.set_num_threads(1)
    prefix = sys.argv[1] if len(sys.argv) > 1 else ""
    before = json.loads((here / "variants.json").read_text()) if prefix else {}
    out = {}
    for name, base, change, without in CASES:
        if name in before and not name.startswith(prefix):
            out[name] = before[name]
            continue
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            shutil.copy(here / base / "model.safetensors", folder)
            config = json.loads((here / base / "config.json").read_text())
            config.update(change)
            for key in without:
                config.pop(key, None)
            (folder / "config.json").write_text(json.dumps(config))
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
            ids = load_file(here / base / "golden.safetensors")["input_ids"]
            with torch.no_grad():
                logits = model(ids, use_cache=False).logits[0, -1]
        out[name] = dict(base=base, change=change, without=without, logits=[float(f"{x:.7g}") for x in logits])
        print(name, transformers.__version__, out[name]["logits"][:3])
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in out.items())
    (here / "variants.json").write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    main()
