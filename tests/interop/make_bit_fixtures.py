"""Makes tests/format/gguf/bits.gguf with ggml itself: GGUF's blocks of one and two bits, which the gguf package does
not decode.

  pip install gguf==0.19.0 && python3 make_bit_fixtures.py LIBGGML_BASE.so ../format/gguf

Of each type T the blocks' bytes as tensor "T" (I8, a row a block), and as "T.values" what ggml makes of them.
"""
import ctypes
import pathlib
import sys

import gguf
import numpy as np

library = ctypes.CDLL(sys.argv[1])
random = np.random.default_rng(3)
w = gguf.GGUFWriter(pathlib.Path(sys.argv[2]) / "bits.gguf", "test")
for name, size in (("Q1_0", 128), ("Q2_0", 64)):
    blocks = random.integers(0, 256, (24, 18), dtype=np.uint8)
    scales = random.choice([1, -1, 1e-3, 3e-7, 0, 1000], 24) * random.uniform(0.5, 1, 24)
    blocks[:, :2] = scales.astype(np.float16)[:, None].view(np.uint8)
    values = np.zeros((24, size), np.float32)
    decode = getattr(library, f"dequantize_row_{name.lower()}")
    decode(blocks.ctypes.data_as(ctypes.c_void_p), values.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(values.size))
    w.add_tensor(name, blocks.view(np.int8))
    w.add_tensor(name + ".values", values)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
