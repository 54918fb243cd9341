"""Decodes GPTQ, AWQ and compressed-tensors checkpoints by their format descriptions alone, independently of nibble.

  python3 dequantize_layouts.py MODEL-FOLDER OUT.safetensors

Needs numpy and safetensors. Every quantized layer becomes an F32 tensor <layer>.weight in OUT. Codes are taken bit by
bit, slowly and without cleverness.
"""
import json, pathlib, sys
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

folder = pathlib.Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text())["quantization_config"]
method = config["quant_method"]


def stream(words, bits, count):
    """Codes of a row-wise LSB-first stream: words [rows, w] to [rows, count]."""
    all_bits = (words.view(np.uint32)[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1
    codes = all_bits.reshape(words.shape[0], -1)[:, : count * bits].reshape(words.shape[0], count, bits)
    return (codes << np.arange(bits, dtype=np.uint32)).sum(2).astype(np.int64)


def weight(codes, zeros, scales, group):
    """codes [N, K]; zeros and scales [N, G]; group [K]."""
    w = (codes - zeros[:, group]).astype(np.float32) * scales.astype(np.float32)[:, group]
    return np.ascontiguousarray(w)  # save_file takes the bytes as they lie


def gptq(get, layer):
    bits = config["bits"]
    qweight, scales, group = get(layer + ".qweight"), get(layer + ".scales"), get(layer + ".g_idx")
    rows, cols = scales.shape[1], group.shape[0]
    zeros = stream(get(layer + ".qzeros"), bits, rows)
    if config["checkpoint_format"] == "gptq":
        zeros = (zeros + 1) & (2**bits - 1)
    return weight(stream(np.ascontiguousarray(qweight.T), bits, cols), zeros.T, scales.T, group)


def awq(get, layer):
    qweight, qzeros, scales = (get(layer + part) for part in [".qweight", ".qzeros", ".scales"])
    size = config["group_size"]
    if config["version"] == "gemm":
        place = [0, 4, 1, 5, 2, 6, 3, 7]  # the nibble of each of eight columns
        unpack = lambda words: stream(words, 4, words.shape[1] * 8).reshape(words.shape[0], -1, 8)[:, :, place].reshape(words.shape[0], -1)
        codes, zeros, scales = unpack(qweight).T, unpack(qzeros).T, scales.T
    else:
        codes, zeros = stream(qweight, 4, qweight.shape[1] * 8), stream(qzeros, 4, scales.shape[1])
    return weight(codes, zeros, scales, np.arange(codes.shape[1]) // (size if size > 0 else codes.shape[1]))


def compressed_tensors(get, layer):
    (args,) = [g["weights"] for g in config["config_groups"].values()]
    bits, (rows, cols), scales = args["num_bits"], get(layer + ".weight_shape"), get(layer + ".weight_scale")
    codes = stream(get(layer + ".weight_packed"), bits, cols)
    zeros = np.full(scales.shape, 2 ** (bits - 1))
    if not args["symmetric"]:
        zeros = stream(np.ascontiguousarray(get(layer + ".weight_zero_point").T), bits, rows).T
    size = args["group_size"] if args["strategy"] == "group" else cols
    return weight(codes, zeros, scales, np.arange(cols) // size)


decode = {"gptq": gptq, "awq": awq, "compressed-tensors": compressed_tensors}[method]
mark = ".weight_packed" if method == "compressed-tensors" else ".qweight"
with safe_open(folder / "model.safetensors", "np") as f:
    layers = [n.removesuffix(mark) for n in f.keys() if n.endswith(mark)]
    save_file({layer + ".weight": decode(f.get_tensor, layer) for layer in layers}, sys.argv[2])
