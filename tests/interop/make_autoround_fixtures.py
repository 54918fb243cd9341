"""Adds AutoRound's checkpoints to tests/interop/fixtures: the down projection of a tiny model, packed by AutoRound itself,
with the weight that it rounded to.

  pip install torch transformers auto-round==0.16.1
  python make_autoround_fixtures.py
"""
import json, pathlib, shutil, tempfile
import torch
from auto_round import AutoRound
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

here = pathlib.Path(__file__).resolve().parent
LAYER = "model.layers.0.mlp.down_proj"
tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(here.parent / "golden/json_llama2/tokenizer.json"))


def rounding(**how):
    """Of the same model each time: rounding to nearest has no chance in it."""
    torch.manual_seed(20261130)
    config = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(config).float()
    return AutoRound(model, tokenizer, iters=0, disable_opt_rtn=True, device_map="cpu", **how)


def make(name, **how):
    expected = rounding(**how).quantize()[0].get_submodule(LAYER).weight.detach().clone()
    assert torch.equal(expected, expected.to(torch.bfloat16).to(expected.dtype))  # what AutoRound computes in
    with tempfile.TemporaryDirectory() as out:
        rounding(**how).quantize_and_save(output_dir=out, format="auto_round")
        saved = next(pathlib.Path(out).rglob("model.safetensors")).parent
        said = json.loads((saved / "config.json").read_text())["quantization_config"]
        with safe_open(saved / "model.safetensors", "pt") as file:
            tensors = {k.replace(LAYER, "layer"): file.get_tensor(k) for k in file.keys() if k.startswith(LAYER)}
    said["extra_config"] = {"model.layers.1.mlp.up_proj": {"bits": 16, "data_type": "fp"}, "layer": {"bits": said["bits"]}}
    folder = here / "fixtures" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_file({**tensors, "expected": expected.to(torch.bfloat16)}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"quantization_config": said}, indent=1) + "\n")
    print(name, said["packing_format"], sorted(tensors))


make("gptq-auto-round-4bit-g32", bits=4, group_size=32, sym=True)
make("gptq-auto-round-3bit-g64", bits=3, group_size=64, sym=True)
make("awq-gemm-auto-round-g32", bits=4, group_size=32, sym=False)
