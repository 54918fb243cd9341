"""Writes lora/<case>.safetensors with the real transformers, peft and bitsandbytes: the loss of a packed row under a LoRA
adapter, the gradient of each of its parameters, and the parameters after steps of torch's AdamW.

  pip install torch transformers peft accelerate bitsandbytes safetensors
  python make_lora_golden.py
  python make_lora_golden.py phi3     # only the cases whose name begins so

Models are those beside this file; the adapter's values follow from `pattern`, so the files hold results alone. A row is
two samples of the model's golden input_ids, the first SPLIT tokens and the rest; the first PROMPT tokens of each are not
trained on. They are run apart, as packing must not show.
"""
import math, pathlib, sys
import bitsandbytes.functional as bnb
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

SPLIT, PROMPT, STEPS, RATE, CLIP = 19, 4, 3, 1e-2, 0.3
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = {"phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
         "glm4": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]}
CASES = {
    "gqa_tied": {}, "qwen3_nf4": {}, "bias": {}, "qwen3": {}, "gemma2": {}, "gemma3": {}, "phi3": {},
    "glm4": {}, "phi3_dora": dict(use_dora=True),
    "gqa_tied_rslora": dict(use_rslora=True), "gqa_tied_dora": dict(use_dora=True), "bias_dora": dict(use_dora=True),
}


def pattern(name, shape, scale):
    """Numbers in ±scale that any language can make: a multiplicative hash of the place, keyed by the name's bytes."""
    key = 0
    for byte in name.encode():
        key = (key * 31 + byte) % 2**32
    place = torch.arange(math.prod(shape), dtype=torch.int64)
    mixed = (place * 2654435761 + key) % 2**32
    mixed = (mixed * 2246822519) % 2**32  # below 2^64: both factors are below 2^32
    return ((mixed >> 8).to(torch.float64) / 2**24 * 2 - 1).mul(scale).to(torch.float32).reshape(shape)


def nf4(weight):
    """Blocks of 64 elements whatever the rows are: the CPU's code of bitsandbytes 0.50 takes whole ones in a row only."""
    packed, state = bnb.quantize_4bit(weight.reshape(-1, 64), quant_type="nf4", blocksize=64, compress_statistics=True)
    return bnb.dequantize_4bit(packed, state).reshape(weight.shape)


def main():
    here = pathlib.Path(__file__).resolve().parent
    (here / "lora").mkdir(exist_ok=True)
    torch.set_num_threads(1)
    for case, options in CASES.items():
        if sys.argv[1:] and not case.startswith(sys.argv[1]):
            continue
        base = here / case.removesuffix("_nf4").removesuffix("_rslora").removesuffix("_dora")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        if case.endswith("_nf4"):
            for name, module in model.named_modules():
                if isinstance(module, torch.nn.Linear) and name.split(".")[-1] in TARGETS:
                    module.weight.data = nf4(module.weight.data)
        model = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, lora_dropout=0.0, task_type="CAUSAL_LM",
                                                 target_modules=FUSED.get(base.name, TARGETS), **options))
        trained = {}
        for name, p in model.named_parameters():
            name = name.removeprefix("base_model.model.").replace(".default", "")  # as in adapter_model.safetensors
            if p.requires_grad:
                trained[name.replace("magnitude_vector.weight", "magnitude_vector")] = p
        for name, p in trained.items():
            if "magnitude" in name:
                p.data *= 1 + pattern(name, p.shape, 0.25)
            else:
                p.data = pattern(name, p.shape, 0.2)
        ids = load_file(here / base.name / "golden.safetensors")["input_ids"].flatten().long()
        out = {}
        optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=0.0)
        for step in range(STEPS):
            optimizer.zero_grad()
            total, targets = 0, 0
            for sample in (ids[:SPLIT], ids[SPLIT:]):
                logits = model(sample[None]).logits[0]
                labels = sample.clone()
                labels[:PROMPT] = -100
                total = total + torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum",
                                                                  ignore_index=-100)
                targets += int((labels[1:] != -100).sum())
            total.backward()
            if step == 0:
                out["loss"] = total.detach().reshape(1)
                out["logits"] = logits[-1].detach()
                for name, p in trained.items():
                    out["gradient." + name] = p.grad.clone()
            for p in trained.values():
                p.grad /= targets
            torch.nn.utils.clip_grad_norm_(trained.values(), CLIP)
            optimizer.step()
        for name, p in trained.items():
            out["after." + name] = p.detach().clone()
        save_file({k: v.contiguous() for k, v in out.items()}, here / "lora" / f"{case}.safetensors")
        print(case, len(trained), float(out["loss"]))


main()
