"""Loads our NF4, FP4 and INT8 output with transformers and bitsandbytes themselves, and compares the loss on one window.

  pip install torch transformers accelerate bitsandbytes
  python load_with_transformers.py build/release/bin/nibble        # not part of the tests: the packages are large

bitsandbytes multiplies in bf16 or fp16, so losses agree to about 1e-3, not exactly.
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
    for method in ["bf16", "nf4", "nf4-dq", "fp4", "llm-int8"]:
        out, figures = folder / method, folder / "figures.json"
        subprocess.run([tool, "quantize", data / "austen-5m", "-o", out, "--method", method, "--quiet"], check=True)
        subprocess.run([tool, "eval", out, "--text", folder / "text", "--json", figures, "--quiet"], check=True)
        ours = math.log(json.loads(figures.read_text())["perplexity"])
        model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        with torch.no_grad():
            theirs = model(ids, labels=ids).loss.item()
        kind = type(model.model.layers[0].mlp.up_proj).__name__
        print(f"{method:8} {kind:12} theirs {theirs:.5f}, ours {ours:.5f}")
        bad += abs(theirs - ours) > 2e-3
sys.exit(bad != 0)
