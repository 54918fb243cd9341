#!/usr/bin/env python3
"""Writes adapters as PEFT saves them, and the scale that PEFT gives each of their layers.

usage: make_adapter_golden.py FOLDER   (torch 2.15, transformers 5.24, peft 0.21.2; a CPU is enough)

Of a model of FOLDER/gqa_tied/config.json, into FOLDER/adapters: "patterns" (ranks and alphas that differ), "rslora" and
"dora". expected.json has for each adapter and layer the rank, alpha and scale, and logits.safetensors what gqa_tied with
that adapter predicts behind its golden input_ids. The values are made of integers, so that
the test makes the same: value(i, salt) below, the salt being the sum of the bytes of the tensor's name in the file.
"""
import json
import os
import sys

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "patterns": LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=8,
        lora_dropout=0.05,
        target_modules=LINEARS,
        # Of patterns that hold for one layer the first counts, and PEFT sorts them when it saves: in another order than
        # this it could not load what it saved.
        rank_pattern={r"^model\.layers\.1\.mlp\.down_proj": 6, "layers.0.self_attn.q_proj": 3, "q_proj": 2},
        alpha_pattern={"k_proj|v_proj": 3, r"layers\.1\..*_proj": 5, "model.layers.0.mlp.up_proj": 12},
    ),
    "rslora": LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=7, use_rslora=True, target_modules=["q_proj", "v_proj"]),
    "dora": LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        lora_alpha=4,
        use_dora=True,
        target_modules=["k_proj", "down_proj"],
        layers_to_transform=[1],
    ),
}


def value(count, salt):
    """`count` numbers from -1 to 1."""
    i = np.arange(count, dtype=np.uint64)
    mixed = ((i + np.uint64(1)) * np.uint64(2654435761) + np.uint64(salt) * np.uint64(40503)) & np.uint64(0xFFFFFFFF)
    return ((mixed >> np.uint64(16)).astype(np.float32) / np.float32(32768)) - np.float32(1)


def main():
    folder = sys.argv[1]
    expected, logits = {}, {}
    ids = load_file(f"{folder}/gqa_tied/golden.safetensors")["input_ids"].reshape(1, -1).long()
    for name, config in ADAPTERS.items():
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(f"{folder}/gqa_tied"))
        base.name_or_path = "gqa_tied"
        config.base_model_name_or_path = "gqa_tied"
        model = get_peft_model(base, config)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_" not in key:
                    continue
                stored = key.replace("lora_magnitude_vector.default.weight", "lora_magnitude_vector")
                stored = stored.replace(".default", "")
                made = value(parameter.numel(), sum(stored.encode()))
                parameter.copy_(torch.from_numpy(made).reshape(parameter.shape))
        model.save_pretrained(f"{folder}/adapters/{name}")
        os.remove(f"{folder}/adapters/{name}/README.md")  # a model card, which nothing reads
        loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_config(base.config), f"{folder}/adapters/{name}")
        expected[name] = {
            key.removeprefix("base_model.model."): {
                "rank": layer.r["default"],
                "alpha": layer.lora_alpha["default"],
                "scale": layer.scaling["default"],
            }
            for key, layer in loaded.named_modules()
            if isinstance(layer, LoraLayer)
        }
        weights = AutoModelForCausalLM.from_pretrained(
            f"{folder}/gqa_tied", dtype=torch.float32, attn_implementation="eager"
        )
        with torch.no_grad():
            adapted = PeftModel.from_pretrained(weights, f"{folder}/adapters/{name}").eval()
            logits[name] = adapted(ids).logits[0, -1].clone()
    save_file(logits, f"{folder}/adapters/logits.safetensors")
    with open(f"{folder}/adapters/expected.json", "w") as file:
        json.dump(expected, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
