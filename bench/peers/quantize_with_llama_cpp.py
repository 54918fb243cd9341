"""Quantizes a GGUF file of floats to one of llama.cpp's mixes by its own quantizer: the peer of nibble export-gguf --mix.

  pip install gguf numpy
  nibble export-gguf MODEL f32.gguf --type f32 && nibble imatrix MODEL -o model.imatrix
  python3 quantize_with_llama_cpp.py path/to/libllama.so f32.gguf model.imatrix out.gguf Q4_K_M

The struct below is that of llama.cpp in llama-cpp-python 0.3.36.
"""
import ctypes
import sys

import gguf
import numpy as np


class Params(ctypes.Structure):
    _fields_ = [("nthread", ctypes.c_int32), ("ftype", ctypes.c_int), ("output_tensor_type", ctypes.c_int),
                ("token_embedding_type", ctypes.c_int)] + \
               [(n, ctypes.c_bool) for n in ("allow_requantize", "quantize_output_tensor", "only_copy", "pure",
                                             "keep_split", "dry_run")] + \
               [(n, ctypes.c_void_p) for n in ("imatrix", "kv_overrides", "tt_overrides", "prune_layers")] + \
               [("max_buf_size", ctypes.c_size_t)]


class Importance(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


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
    entries.append(Importance(weight.encode(), mean.ctypes.data, mean.size))
entries = (Importance * (len(entries) + 1))(*entries)
lib = ctypes.CDLL(library)
lib.llama_model_quantize_default_params.restype = Params
lib.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Params)]
lib.llama_backend_init()
params = lib.llama_model_quantize_default_params()
params.ftype = int(gguf.LlamaFileType["MOSTLY_" + mix])
params.imatrix = ctypes.addressof(entries)
sys.exit(lib.llama_model_quantize(source.encode(), out.encode(), params))
