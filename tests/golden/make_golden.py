"""Writes the golden files of the reference engine with the real transformers library.

  pip install torch transformers safetensors
  python make_golden.py            # writes the folders that are named below beside this file
  python make_golden.py qwen3      # only this one

Each folder holds a small random model in float32 or bfloat16 (config.json, model.safetensors) and golden.safetensors:
input_ids [1, 48] int64 and logits [48, vocabulary] float32, one forward pass in float32 without a cache.

  gqa_tied   Llama: grouped-query attention, tied embeddings, Llama 3 RoPE scaling; config.json in the form that
             transformers 4 wrote and that most published models carry (rope_theta, rope_scaling, torch_dtype)
  bias       Qwen2: biases on q, k and v, untied; config.json as transformers 5 writes it (rope_parameters, dtype)
  mistral    Mistral: a sliding window shorter than the sequence, head_dim other than hidden_size / heads
  qwen3      Qwen3: norms of queries and keys, tied embeddings, head_dim twice hidden_size / heads; stored in bfloat16
  gemma2     Gemma 2: caps low enough to bite, a window shorter than the sequence in the first of two layers; stored in
             bfloat16
  gemma3     Gemma 3: five layers with a window and one without, each kind with its own rotary base; stored in bfloat16
  phi3       Phi-3: query, key and value in one layer, gate and up in another, three quarters of each head turned, a
             window shorter than the sequence; stored in bfloat16
  glm4       GLM-4-0414: gate and up in one layer, half of each head turned in the pairs (2i, 2i + 1), biases on q, k
             and v, norms behind attention and the feed-forward layer; stored in bfloat16
  mixtral    Mixtral: of four experts two a token; the file holds each expert's tensors by themselves, under the names
             of the published checkpoints
  qwen3_moe  Qwen3-MoE: of six experts three a token, their weights normalized; norms of queries and keys; stored in
             bfloat16
"""
import json, pathlib, sys
import torch
import transformers
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, Glm4Config, LlamaConfig, MistralConfig,
                          MixtralConfig, Phi3Config, Qwen2Config, Qwen3Config, Qwen3MoeConfig)

LENGTH = 48
SHAPE = dict(vocab_size=96, hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, bos_token_id=None, eos_token_id=None)
# With head_dim 16 the wavelengths are 6.3, 19.9, 63, 199 ...: one keeps its frequency, two are blended, the rest scaled.
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
MODELS = {
    "gqa_tied": LlamaConfig(**SHAPE, rms_norm_eps=1e-5, tie_word_embeddings=True,
                            rope_parameters=dict(LLAMA3, rope_theta=10000.0)),
    "bias": Qwen2Config(**SHAPE, rms_norm_eps=1e-6, tie_word_embeddings=False,
                        rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
    "mistral": MistralConfig(**SHAPE, rms_norm_eps=1e-5, tie_word_embeddings=False, head_dim=24, sliding_window=16,
                             rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
    "qwen3": Qwen3Config(**dict(SHAPE, hidden_size=32, intermediate_size=64), rms_norm_eps=1e-6, head_dim=16,
                         tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
    "gemma2": Gemma2Config(**dict(SHAPE, hidden_size=32, intermediate_size=64), rms_norm_eps=1e-6, head_dim=16,
                           query_pre_attn_scalar=16, attn_logit_softcapping=5.0, final_logit_softcapping=8.0,
                           sliding_window=16, rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
    "gemma3": Gemma3TextConfig(**dict(SHAPE, hidden_size=32, intermediate_size=32, num_hidden_layers=6,
                                      num_attention_heads=2, num_key_value_heads=1), rms_norm_eps=1e-6, head_dim=16,
                               query_pre_attn_scalar=16, sliding_window=16,
                               rope_parameters=dict(full_attention=dict(rope_type="default", rope_theta=1000000.0),
                                                    sliding_attention=dict(rope_type="default", rope_theta=10000.0))),
    "phi3": Phi3Config(**dict(SHAPE, hidden_size=32, intermediate_size=64, num_attention_heads=2,
                              num_key_value_heads=1), rms_norm_eps=1e-5, pad_token_id=None, sliding_window=16,
                       rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.75)),
    "glm4": Glm4Config(**dict(SHAPE, hidden_size=32, intermediate_size=64, eos_token_id=2), rms_norm_eps=1e-5,
                       head_dim=16, pad_token_id=None, attention_bias=True,
                       rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5)),
    "mixtral": MixtralConfig(**dict(SHAPE, hidden_size=32, intermediate_size=32, num_attention_heads=2,
                                    num_key_value_heads=1), rms_norm_eps=1e-5, num_local_experts=4,
                             num_experts_per_tok=2, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
    "qwen3_moe": Qwen3MoeConfig(**dict(SHAPE, hidden_size=32, intermediate_size=64, num_attention_heads=2,
                                       num_key_value_heads=1), rms_norm_eps=1e-6, head_dim=32, moe_intermediate_size=16,
                                num_experts=6, num_experts_per_tok=3, norm_topk_prob=True, use_sliding_window=False,
                                rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
}
# float32 where nothing is said
STORED = dict.fromkeys(["qwen3", "gemma2", "gemma3", "phi3", "glm4", "qwen3_moe"], torch.bfloat16)


def randomise(model, seed):
    """Every tensor is random, the norms and the biases too, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    centre = 0 if model.config.model_type.startswith("gemma") else 1  # Gemma's norms multiply by 1 + weight
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=generator)
        p.data = centre + 0.2 * noise if "norm" in name else 0.2 * noise


def published_form(config):
    """config.json of transformers 5 in the form of version 4."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    return config


def main():
    here = pathlib.Path(__file__).resolve().parent
    torch.set_num_threads(1)
    for seed, (name, config) in enumerate(MODELS.items(), start=1):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        folder = here / name
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
        randomise(model, seed)
        model.to(STORED.get(name, torch.float32)).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        if name == "gqa_tied":
            path = folder / "config.json"
            path.write_text(json.dumps(published_form(json.loads(path.read_text())), indent=2) + "\n")

        # The golden logits come from the files as they lie on the disk.
        eager = dict(attn_implementation="eager")
        if "moe" in name or name == "mixtral":
            eager["experts_implementation"] = "eager"  # the other has no float64
        load = lambda dtype: AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **eager).eval()
        ids = torch.randint(config.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(100 + seed))
        with torch.no_grad():
            logits = load(torch.float32)(ids, use_cache=False).logits[0]
            exact = load(torch.float64)(ids, use_cache=False).logits[0]
        save_file({"input_ids": ids, "logits": logits.contiguous()}, folder / "golden.safetensors")
        print(f"{name}: transformers {transformers.__version__}, logits {logits.std():.2f} (std) {logits.abs().max():.2f} (max), "
              f"float32 against float64 {(logits - exact).abs().max():.1e}")


if __name__ == "__main__":
    main()
