"""Has llama.cpp itself run our GGUF files: each next byte of a text, predicted by it and by us from the same file.

  pip install xllamacpp                                            # llama.cpp, built, behind a Python module
  python run_with_llama_cpp.py build/release/bin/nibble            # not part of the tests: the package is large

llama.cpp rounds activations to 8 bits before it multiplies quantized weights, and keys and values to fp16, so that losses
agree to about 2e-3, not exactly. Greedy continuations are printed, not compared: one near-tie parts them for good.
"""
import json, math, pathlib, subprocess, sys, tempfile
import xllamacpp

LIMIT = 3e-3
tool = sys.argv[1]
data = pathlib.Path(__file__).resolve().parents[2] / "examples/data"
text = (data / "evaluation.txt").read_bytes()[:256].decode("ascii")
prompt = "It was a dark and rainy evening, and Catherine "


def serve(path):
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.warmup = str(path), 512, False
    server = xllamacpp.Server(parameters)

    def complete(prompt, tokens, alternatives):
        answer = server.handle_completions(
            {"prompt": prompt, "n_predict": tokens, "temperature": 0.0, "n_probs": alternatives, "cache_prompt": True})
        return (json.loads(answer) if isinstance(answer, str) else answer)["choices"][0]

    return complete


def loss_by_llama_cpp(complete):
    """Mean of -log p of each byte of the text but the first."""
    total = 0.0
    for i in range(1, len(text)):
        found = complete(text[:i], 1, 256)["logprobs"]["content"][0]["top_logprobs"]
        total -= next(token["logprob"] for token in found if token["bytes"] == [ord(text[i])])
    return total / (len(text) - 1)


bad = 0
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    (folder / "text").write_text(text)
    for kind in ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_1", "q5_0", "q4_1", "q4_0", "q4_k"]:
        file, figures = folder / f"{kind}.gguf", folder / "figures.json"
        subprocess.run([tool, "export-gguf", data / "austen-5m", file, "--type", kind, "--quiet"], check=True)
        subprocess.run([tool, "eval", file, "--text", folder / "text", "--json", figures, "--quiet"], check=True)
        ours = math.log(json.loads(figures.read_text())["perplexity"])
        complete = serve(file)
        theirs = loss_by_llama_cpp(complete)
        print(f"{kind:5} llama.cpp {theirs:.5f}, ours {ours:.5f}: {complete(prompt, 40, 1)['text']!r}", flush=True)
        bad += not abs(theirs - ours) < LIMIT
sys.exit(bad != 0)
