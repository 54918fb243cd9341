"""Quantizes a GGUF file of floats by ggml's own quantizers and an importance matrix: the peer of nibble export-gguf.

  pip install gguf numpy
  nibble export-gguf MODEL f32.gguf --type f32 && nibble imatrix MODEL -o model.imatrix
  python3 quantize_with_ggml.py path/to/libggml-base.so f32.gguf model.imatrix out.gguf q4_k

Matrices of the blocks get the type, or what llama.cpp takes where their rows are no whole super-blocks; the embedding
and the head Q8_0, as export-gguf has them.
"""
import ctypes
import struct
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

SMALLER = {T.Q2_K: T.Q4_0, T.Q3_K: T.Q4_0, T.Q4_K: T.Q5_0, T.Q5_K: T.Q5_1, T.Q6_K: T.Q8_0, T.IQ4_XS: T.IQ4_NL}

library, source, importance, out, name = sys.argv[1:]
kind = T[name.upper()]
lib = ctypes.CDLL(library)
pointer, i64 = ctypes.c_void_p, ctypes.c_int64
lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, i64, i64, i64, pointer]
lib.ggml_quantize_chunk.restype = ctypes.c_size_t

sums = {t.name: t.data for t in gguf.GGUFReader(importance).tensors}
reader = gguf.GGUFReader(source)
tensors = []  # name, shape (the innermost first), type, bytes
for t in reader.tensors:
    x = np.ascontiguousarray(t.data, np.float32)
    if x.ndim != 2:
        tensors.append((t.name, t.shape, T.F32, x.tobytes()))
        continue
    to = kind if t.name.startswith("blk.") else T.Q8_0
    if x.shape[1] % gguf.GGML_QUANT_SIZES[to][0]:
        to = SMALLER[to]
    values, size = gguf.GGML_QUANT_SIZES[to]
    blocks = np.zeros((x.shape[0], x.shape[1] // values * size), np.uint8)
    mean = None
    if t.name + ".in_sum2" in sums:
        mean = np.ascontiguousarray(sums[t.name + ".in_sum2"] / sums[t.name + ".counts"], np.float32)
    lib.ggml_quantize_init(int(to))
    weights = None if mean is None else mean.ctypes.data
    lib.ggml_quantize_chunk(int(to), x.ctypes.data, blocks.ctypes.data, 0, *x.shape, weights)
    tensors.append((t.name, t.shape, to, blocks.tobytes()))

# The header and the metadata as they are, then the tensors.
text = bytearray(open(source, "rb").read()[: reader.tensors[0].field.offset])
data = b""
for name, shape, to, blocks in tensors:
    text += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
    text += b"".join(struct.pack("<Q", int(n)) for n in shape) + struct.pack("<IQ", int(to), len(data))
    data += blocks + bytes(-len(blocks) % 32)
open(out, "wb").write(bytes(text) + bytes(-len(text) % 32) + data)
