"""Opens a GGUF file that nibble wrote with the real gguf package, and compares what it decodes with the exact model.

  python3 check_gguf.py MODEL.gguf EXACT.gguf LARGEST-RELATIVE-ERROR

EXACT is the same model exported as F32. Every tensor of MODEL is dequantized by the package; the relative error
‖W − Q‖ / ‖W‖ of each must stay below the limit, which is what a wrong layout, scale or row order would break. Metadata
and tokenizer must be those of EXACT, and complete enough for llama.cpp.
"""
import sys

import gguf
import numpy as np

NEEDED = [
    "general.architecture",
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
]


def fields(reader):
    return {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}


model, exact, limit = gguf.GGUFReader(sys.argv[1]), gguf.GGUFReader(sys.argv[2]), float(sys.argv[3])
ours, theirs = fields(model), fields(exact)
for key in NEEDED:
    assert key in ours, f"{key} is missing"
for key in ours.keys() | theirs.keys():
    assert key == "general.file_type" or ours.get(key) == theirs.get(key), f"{key} differs"
tokens = ours["tokenizer.ggml.tokens"]
expected = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in exact.tensors}
assert [t.name for t in model.tensors] == [t.name for t in exact.tensors]
worst = 0.0
for t in model.tensors:
    want = expected[t.name]
    have = gguf.quants.dequantize(t.data, t.tensor_type).reshape(want.shape)
    if t.name == "token_embd.weight":
        assert want.shape == (len(tokens), ours["llama.embedding_length"]), want.shape
    error = np.linalg.norm(have - want) / np.linalg.norm(want)
    assert error <= limit, f"{t.name} ({t.tensor_type.name}): relative error {error}"
    worst = max(worst, error)
types = sorted({t.tensor_type.name for t in model.tensors})
print(f"{len(model.tensors)} tensors ({', '.join(types)}), largest relative error {worst:.5f}")
