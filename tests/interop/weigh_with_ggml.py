"""Errors of ggml's own quantizers with an importance matrix, which tests/scheme/gguf_fit_test.cpp holds ours to.

  python3 weigh_with_ggml.py path/to/libggml-base.so

Prints, for each type, the root of the weighted squared error over the weighted squares of the values, for input and
weights that the test makes the same way.
"""
import ctypes
import math
import sys

import numpy as np

ROWS, COLS = 64, 1024
TYPES = {"Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
         "IQ4_NL": 20, "IQ4_XS": 23}
SIZES = {"Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q2_K": (256, 84),
         "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210), "IQ4_NL": (32, 18),
         "IQ4_XS": (256, 136)}


def numbers(count, state):
    """Sums of four uniform numbers, nearly normal: whole numbers around 0 of at most 2^17."""
    out = []
    for _ in range(count):
        total = -2 * 65535
        for _ in range(4):
            state = (state * 1664525 + 1013904223) % 2**32
            total += state >> 16
        out.append(total)
    return np.array(out, np.float32)


x = numbers(ROWS * COLS, 1) * np.float32(2**-20)
x[::37] *= 3
weights = np.exp2(np.floor(numbers(COLS, 2) * np.float32(2**-15))).astype(np.float32)

lib = ctypes.CDLL(sys.argv[1])
lib.ggml_quantize_chunk.restype = ctypes.c_size_t
i64, pointer = ctypes.c_int64, ctypes.c_void_p
lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, i64, i64, i64, pointer]
for name, number in TYPES.items():
    lib.ggml_quantize_init(number)
    values, size = SIZES[name]
    blocks = np.zeros(ROWS * COLS // values * size, np.uint8)
    lib.ggml_quantize_chunk(number, x.ctypes.data, blocks.ctypes.data, 0, ROWS, COLS, weights.ctypes.data)
    decode = getattr(lib, "dequantize_row_" + name.lower().replace("_k", "_K"))
    back = np.zeros_like(x)
    decode(ctypes.c_void_p(blocks.ctypes.data), ctypes.c_void_p(back.ctypes.data), i64(x.size))
    w = np.tile(weights.astype(np.float64), ROWS)
    error = ((back.astype(np.float64) - x) ** 2 * w).sum() / ((x.astype(np.float64) ** 2) * w).sum()
    print(f"{name} {math.sqrt(error):.5f}")
