"""Quantizes a GGUF file of floats to one of llama.cpp's mixes by its own quantizer: the peer of nibble export-gguf --mix.

  pip install gguf numpy
  nibble export-gguf MODEL f32.gguf --type f32 && nibble imatrix MODEL -o model.imatrix
  python3 quantize_with_llama_cpp.py path/to/libllama.so f32.gguf model.imatrix out.gguf Q4_K_M
"""
import sys

import gguf
import llama_cpp
import numpy as np


library, source, importance, out, mix = sys.argv[1:]
tensors = {t.name: t.data for t in gguf.GGUFReader(importance).tensors}
entries, kept = [], []
for name, sums in tensors.items():
    if not name.endswith(".in_sum2"):
        continue
    weight = name.removesuffix(".in_sum2")
    counts = np.asarray(tensors[weight + ".counts"], np.float32).reshape(-1, 1)
    mean = np.ascontiguousarray(np.asarray(sums, np.float32).reshape(counts.size, -1) / np.maximum(counts, 1)).ravel()
    kept.append(mean)
    entries.append((weight, mean.ctypes.data, mean.size))
file_type = int(gguf.LlamaFileType["MOSTLY_" + mix])
sys.exit(llama_cpp.quantize(llama_cpp.load(library), source, out, file_type, entries))
