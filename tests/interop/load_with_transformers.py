"""Loads our NF4, FP4, INT8, FP8, MX and NVFP4 output with transformers, bitsandbytes and compressed-tensors themselves,
and compares the loss on one window.

  pip install torch transformers accelerate bitsandbytes compressed-tensors
  python load_with_transformers.py build/release/bin/nibble        # not part of the tests: the packages are large

bitsandbytes multiplies in bf16 or fp16, so losses agree to about 1e-3, not exactly; compressed-tensors decodes MX and
NVFP4 to bf16, and such a model runs in it.
"""
import json, math, pathlib, subprocess, sys, tempfile
import torch, transformers

tool = sys.argv[1]
data = pathlib.Path(__file__).resolve().parents[2] / "examples/data"
text = (data / "evaluation.txt").read_bytes()[:512]
ids = torch.tensor([list(text)])
bad = 0
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    (folder / "text").write_bytes(text)
    for method in ["bf16", "nf4", "nf4-dq", "fp4", "llm-int8", "fp8", "e4m3-tensor", "mxfp8", "mxfp6", "mxfp4", "nvfp4"]:
        out, figures = folder / method, folder / "figures.json"
        subprocess.run([tool, "quantize", data / "austen-5m", "-o", out, "--method", method, "--quiet"], check=True)
        subprocess.run([tool, "eval", out, "--text", folder / "text", "--json", figures, "--quiet"], check=True)
        ours = math.log(json.loads(figures.read_text())["perplexity"])
        packed = method.startswith(("mx", "nv"))  # decoded to bf16, which only a model in bf16 multiplies by
        model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16 if packed else torch.float32)
        with torch.no_grad():
            theirs = model(ids, labels=ids).loss.item()
        kind = type(model.model.layers[0].mlp.up_proj).__name__
        print(f"{method:8} {kind:12} theirs {theirs:.5f}, ours {ours:.5f}")
        bad += abs(theirs - ours) > 2e-3
sys.exit(bad != 0)
