"""Has PEFT and llama.cpp run an adapter that `nibble finetune` trained over nf4-dq: the mean loss of a text's bytes by each.

  pip install torch transformers peft accelerate bitsandbytes xllamacpp
  python run_adapter_elsewhere.py build/release/bin/nibble [ADAPTER]    # not part of the tests: the packages are large

PEFT runs it over bitsandbytes' layers, with the codes and scales that nibble wrote (of its own codes for this model
bitsandbytes' CPU path gives some ties to the other neighbour: the loss is then 5e-4 away); llama.cpp over a GGUF file of the decoded weights, F32,
with the adapter as a GGUF file of F32 beside it. Without an ADAPTER one is trained for a few steps. llama.cpp holds keys
and values in fp16, so that losses agree to about 1e-3 there.
"""
import json, math, pathlib, subprocess, sys, tempfile
import torch
import xllamacpp
from peft import PeftModel
from transformers import AutoModelForCausalLM

LIMITS = {"PEFT": 1e-4, "llama.cpp": 2e-3}
tool = str(pathlib.Path(sys.argv[1]).resolve())
data = pathlib.Path(__file__).resolve().parents[2] / "examples/data"
model = data / "austen-5m"
text = (data / "evaluation.txt").read_bytes()[:256]


def nibble(*arguments):
    subprocess.run([tool, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def by_nibble(folder, adapter):
    (folder / "text.txt").write_bytes(text)
    nibble("eval", model, "--method", "nf4-dq", "--adapter", adapter, "--text", folder / "text.txt", "--json",
           folder / "eval.json", "--quiet")
    return math.log(json.loads((folder / "eval.json").read_text())["perplexity"])


def by_peft(folder, adapter):
    nibble("quantize", model, "-o", folder / "nf4", "--method", "nf4-dq", "--quiet")
    base = AutoModelForCausalLM.from_pretrained(folder / "nf4", dtype=torch.float32, device_map="cpu")
    ids = torch.tensor([list(text)])
    adapted = PeftModel.from_pretrained(base, adapter).eval()
    for module in adapted.modules():  # in evaluation bitsandbytes multiplies by bf16 where the CPU can
        if hasattr(module, "quant_state"):
            module.training, module.quant_state.dtype = True, torch.float32
        else:  # of a quantized model transformers keeps the other weights in the type of the file
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()
    with torch.no_grad():
        return float(adapted(input_ids=ids, labels=ids).loss)


def by_llama_cpp(folder, adapter):
    nibble("quantize", folder / "nf4", "-o", folder / "decoded", "--method", "fp32", "--quiet")
    nibble("export-gguf", folder / "decoded", folder / "model.gguf", "--type", "f32", "--quiet")
    nibble("export-gguf", folder / "decoded", folder / "adapter.gguf", "--adapter", adapter, "--type", "f32", "--quiet")
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.warmup = str(folder / "model.gguf"), 512, False
    lora = xllamacpp.CommonAdapterLoraInfo()
    lora.path, lora.scale = str(folder / "adapter.gguf"), 1.0
    parameters.lora_adapters = [lora]
    server = xllamacpp.Server(parameters)
    total, written = 0.0, text.decode("ascii")
    for i in range(1, len(written)):
        answer = server.handle_completions({"prompt": written[:i], "n_predict": 1, "temperature": 0.0, "n_probs": 256,
                                            "cache_prompt": True})
        answer = json.loads(answer) if isinstance(answer, str) else answer
        found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        total -= next(token["logprob"] for token in found if token["bytes"] == [text[i]])
    return total / (len(written) - 1)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        adapter = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "adapter"
        if len(sys.argv) <= 2:
            nibble("finetune", model, "-o", adapter, "--max-steps", 20, "--batch", 2, "--accumulation", 1,
                   "--learning-rate", 2e-3, "--quiet")
        ours, plain = by_nibble(folder, adapter), None
        failed = False
        for peer, loss in (("PEFT", by_peft(folder, adapter)), ("llama.cpp", by_llama_cpp(folder, adapter))):
            bad = not abs(loss - ours) < LIMITS[peer]
            failed |= bad
            print(f"{peer:10s} loss {loss:.6f}, nibble {ours:.6f}: {'TOO FAR' if bad else 'the same'}")
        sys.exit(failed)


main()
