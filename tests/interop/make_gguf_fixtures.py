"""Makes tests/format/gguf/*.gguf with the real gguf package: what our reader, decoders and encoders are held to.

  pip install gguf==0.19.0 && python3 make_gguf_fixtures.py ../format/gguf

types.gguf     metadata of every type; "source" F32; for each block type T its blocks as tensor "T", and as "T.values"
               what the package dequantizes them to. Types that it quantizes hold the source, the others random blocks.
version2.gguf  the same metadata under the version number 2, alignment 64, one tensor.
"""
import pathlib
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T, GGUFValueType as V

ROWS, COLS = 12, 256
random = np.random.default_rng(1)


def source():
    x = random.normal(0, 0.02, (ROWS, COLS)).astype(np.float32)
    x[1] = random.standard_t(3, COLS) * 0.1
    x[2] = random.integers(-31, 32, COLS) / 2  # many ties
    x[3] = np.abs(x[3]) + 0.01
    x[4] = -np.abs(x[4])
    x[5] *= 1e-6  # f16 scales become subnormal, or 0
    x[6] *= 1e5
    x[7, 40:] = 0  # whole blocks of zeros
    x[8] = 0.25  # nothing but a minimum
    x[9, ::32] = 7.0  # an outlier a block
    x[10] = random.uniform(-1, 1, COLS)
    return x.astype(np.float32)


def random_blocks(t):
    """Random bytes, but finite scales: normal, subnormal, negative and zero ones."""
    _, size = gguf.GGML_QUANT_SIZES[t]
    blocks = random.integers(0, 256, (ROWS * COLS // gguf.GGML_QUANT_SIZES[t][0], size), dtype=np.uint8)
    scales = random.choice([1, -1, 1e-3, 3e-7, 0, 1000], (len(blocks), 2)) * random.uniform(0.5, 1, (len(blocks), 2))
    halves = scales.astype(np.float16)
    places = {T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.Q2_K: [80, 82], T.Q3_K: [108], T.TQ1_0: [52], T.TQ2_0: [64]}
    places = places.get(t, [] if t in (T.IQ1_M, T.MXFP4, T.NVFP4) else [0])
    if t == T.IQ1_M:  # the scale's upper bits are the last byte's
        blocks[:, 55] = blocks[:, 55] % 16 + random.choice([0x00, 0x30, 0xB0], len(blocks))
    if t == T.MXFP4:
        blocks[:, 0] = random.choice([0, 1, 2, 100, 127, 140], len(blocks))
    for i, at in enumerate(places):
        blocks[:, at : at + 2] = halves[:, i : i + 1].view(np.uint8)
    return blocks.reshape(ROWS, -1)


def add_metadata(w):
    w.add_uint8("test.u8", 200)
    w.add_int8("test.i8", -100)
    w.add_uint16("test.u16", 60000)
    w.add_int16("test.i16", -30000)
    w.add_uint32("test.u32", 4000000000)
    w.add_int32("test.i32", -2000000000)
    w.add_float32("test.f32", 0.1)
    w.add_bool("test.bool", True)
    w.add_string("test.string", "größe ☃")
    w.add_uint64("test.u64", 18000000000000000000)
    w.add_int64("test.i64", -9000000000000000000)
    w.add_float64("test.f64", 0.1)
    w.add_array("test.strings", ["", "a", "☃" * 20])
    w.add_array("test.ints", [1, -2, 3])
    w.add_array("test.floats", [0.5, -0.25])
    w.add_array("test.bools", [True, False, True])
    w.add_key_value("test.bytes", bytes(range(5)), V.ARRAY, V.UINT8)


def write(path, fill, alignment=None):
    w = gguf.GGUFWriter(path, "test")
    if alignment:
        w.add_custom_alignment(alignment)
    add_metadata(w)
    fill(w)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def all_types(w):
    x = source()
    w.add_tensor("source", x)
    for t in [T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL,
              T.Q2_K, T.Q3_K, T.IQ4_XS, T.IQ1_S, T.IQ1_M, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS, T.IQ3_S, T.TQ1_0,
              T.TQ2_0, T.MXFP4, T.NVFP4]:
        if t in (T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0):
            blocks = gguf.quants.quantize(x, t)
        else:
            blocks = random_blocks(t)
        w.add_tensor(t.name, blocks, raw_dtype=None if t == T.F16 else t)
        w.add_tensor(t.name + ".values", gguf.quants.dequantize(blocks, t))


out = pathlib.Path(sys.argv[1])
write(out / "types.gguf", all_types)
write(out / "version2.gguf", lambda w: w.add_tensor("matrix", np.arange(6, dtype=np.float32).reshape(2, 3)), 64)
second = bytearray((out / "version2.gguf").read_bytes())
second[4] = 2  # the versions differ in nothing else for little-endian files
(out / "version2.gguf").write_bytes(second)
for f in sorted(out.glob("*.gguf")):
    print(f.name, f.stat().st_size)
