"""Has llama.cpp itself run the small models of tests/golden from our GGUF files: its probabilities of the next token
against the logits that transformers gave.

  pip install xllamacpp numpy safetensors                          # llama.cpp, built, behind a Python module
  python run_golden_with_llama_cpp.py build/release/bin/nibble     # not part of the tests: the package is large

All in fp32: by default llama.cpp's keys and values are fp16, and log-probabilities then agree to 1e-2 only. Of Mistral and
Phi-3 no more tokens are given than their window holds: llama.cpp uses none in those architectures. Gemma's are further off,
because llama.cpp looks GELU up in a table of fp16 values: with transformers doing the same, Gemma 2's agree to 3e-5 and
Gemma 3's to 3e-4, where a value may fall on the other side of a rounding.
"""
import json, pathlib, shutil, subprocess, sys, tempfile
import numpy as np
import xllamacpp
from safetensors.numpy import load_file

# How many tokens at most, and what is too far off.
MODELS = {"gqa_tied": (48, 1e-4), "bias": (48, 1e-4), "mistral": (16, 1e-4), "qwen3": (48, 1e-4), "gemma2": (48, 5e-3),
          "gemma3": (48, 5e-3), "phi3": (16, 1e-4), "glm4": (48, 1e-4), "mixtral": (48, 1e-4), "qwen3_moe": (48, 1e-4)}
golden = pathlib.Path(__file__).resolve().parents[1] / "golden"


def with_tokenizer(source, folder):
    """The model with some tokenizer for its 96 tokens, which export needs."""
    for file in ("config.json", "model.safetensors"):
        shutil.copy(source / file, folder)
    tokenizer = json.loads((golden / "gpt2/tokenizer.json").read_text())
    tokenizer["added_tokens"] = []
    tokenizer["model"].update(merges=[], vocab={chr(ord("!") + i): i for i in range(90)})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def largest_difference(path, ids, expected):
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.warmup = str(path), 128, False
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(parameters)
    worst = 0
    for count in range(1, len(ids) + 1):
        answer = server.handle_completions({"prompt": ids[:count], "n_predict": 1, "temperature": 0.0, "n_probs": 96})
        answer = json.loads(answer) if isinstance(answer, str) else answer
        found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        worst = max([worst] + [abs(token["logprob"] - expected[count - 1][token["id"]]) for token in found])
    return worst


bad = 0
for name, (most, limit) in MODELS.items():
    with tempfile.TemporaryDirectory() as folder:
        model, file = pathlib.Path(folder) / "model", pathlib.Path(folder) / "model.gguf"
        model.mkdir()
        with_tokenizer(golden / name, model)
        subprocess.run([sys.argv[1], "export-gguf", model, file, "--type", "f32", "--quiet"], check=True)
        given = load_file(golden / name / "golden.safetensors")
        ids = given["input_ids"][0].tolist()[:most]
        worst = largest_difference(file, ids, log_softmax(given["logits"]))
        print(f"{name:9} log-probabilities differ by {worst:.1e} at most over {len(ids)} tokens", flush=True)
        bad += not worst < limit
sys.exit(bad != 0)
