"""The real libraries decode what we write: equal to our own values, for every layer of the embedded model.

  NIBBLE_LIBRARY_SOURCES=… python check_with_libraries.py build/release/bin/nibble [auto_gptq awq …]     # see libraries.py

Not part of the tests: the packages are large. AutoAWQ decodes GEMV only in its CUDA kernels; that layout is checked
against the bytes of its packer (tests/format/library_fixtures_test.cpp).
"""
import json, pathlib, subprocess, sys, tempfile
from types import SimpleNamespace
import torch
from safetensors.torch import load_file
import libraries

tool, chosen = sys.argv[1], sys.argv[2:]
model = pathlib.Path(__file__).resolve().parents[2] / "examples/data/austen-5m"


def nibble(*arguments):
    subprocess.run([tool, *map(str, arguments), "--quiet"], check=True)


def fill(layer, tensors, name):
    for part in ["qweight", "qzeros", "scales", "g_idx"]:
        setattr(layer, part, tensors[f"{name}.{part}"])
    return layer


def auto_gptq(config):
    with_order, _ = libraries.auto_gptq()

    def decode(tensors, name, rows, cols):
        size = config["group_size"] if config["group_size"] > 0 else cols
        layer = fill(with_order(config["bits"], size, cols, rows, False, weight_dtype=torch.float16), tensors, name).float()
        return layer(torch.eye(cols)).T

    return decode


def gptqmodel(config):
    linear, _, to_v2 = libraries.gptqmodel()

    def decode(tensors, name, rows, cols):
        layer = linear(bits=config["bits"], group_size=config["group_size"], sym=config["sym"], desc_act=config["desc_act"],
                       in_features=cols, out_features=rows, bias=False)
        fill(layer, tensors, name)
        if config["checkpoint_format"] == "gptq":
            to_v2(layer, config["bits"], torch.int32)
        layer.post_init()
        return layer.dequantize_weight().T

    return decode


def awq(config):
    *_, packing = libraries.awq()

    def decode(tensors, name, rows, cols):
        size = config["group_size"] if config["group_size"] > 0 else cols
        return packing.dequantize_gemm(*(tensors[f"{name}.{p}"] for p in ["qweight", "qzeros", "scales"]), 4, size).T

    return decode


def compressed_tensors(config):
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor as Compressor
    from compressed_tensors.quantization import QuantizationConfig
    parsed = QuantizationConfig.model_validate(config)  # their own reading of our configuration
    (scheme,) = parsed.config_groups.values()

    def decode(tensors, name, rows, cols):
        state = {k.removeprefix(name + "."): v for k, v in tensors.items() if k.startswith(name + ".weight_")}
        return Compressor.decompress(state, scheme)["weight"]

    return decode


def bitsandbytes(config):
    import bitsandbytes.functional as bnb

    def decode(tensors, name, rows, cols):
        parts = {k: v for k, v in tensors.items() if k.startswith(name + ".weight.")}
        state = bnb.QuantState.from_dict(parts, torch.device("cpu"))
        return bnb.dequantize_4bit(tensors[name + ".weight"], state)

    return decode


CASES = [("int4-g64-sym", "gptq", auto_gptq), ("int3-g32-sym", "gptq", auto_gptq), ("int8-channel-sym-f16", "gptq", auto_gptq),
         ("int4-g64-sym", "gptq", gptqmodel), ("int4-g32-asym", "gptq-v2", gptqmodel), ("int3-g32-asym", "gptq-v2", gptqmodel),
         ("int2-g32-asym", "gptq-v2", gptqmodel), ("int8-g128-sym", "gptq-v2", gptqmodel), ("int4-g128-asym", "awq", awq),
         ("int4-channel-sym-f16", "awq", awq), ("int4-g128-asym", "compressed-tensors", compressed_tensors),
         ("int3-g32-sym-bf16", "compressed-tensors", compressed_tensors), ("int5-g32-asym-f32", "compressed-tensors", compressed_tensors),
         ("int8", "compressed-tensors", compressed_tensors), ("nf4", "bitsandbytes", bitsandbytes), ("fp4", "bitsandbytes", bitsandbytes)]
bad = 0
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    for i, (method, layout, library) in enumerate(CASES):
        quantized, converted, decoded = (folder / f"{i}-{n}" for n in ["quantized", "converted", "decoded"])
        if chosen and library.__name__ not in chosen:
            continue
        nibble("quantize", model, "-o", quantized, "--method", method)
        nibble("convert", quantized, converted, "--to", layout)
        nibble("quantize", converted, "-o", decoded, "--method", "fp32")
        tensors, ours = load_file(converted / "model.safetensors"), load_file(decoded / "model.safetensors")
        decode = library(json.loads((converted / "config.json").read_text())["quantization_config"])
        layers = [n.removesuffix(".weight") for n in ours if ".mlp." in n or ".self_attn." in n]
        equal = 0
        with torch.no_grad():
            for name in layers:
                w = ours[name + ".weight"]
                theirs = decode(tensors, name, *w.shape)
                equal += torch.equal(theirs, w.to(theirs.dtype))  # ours rounded once to the type they compute in
        print(f"{method:22} {layout:20} {library.__name__:20} {equal} of {len(layers)} layers equal")
        bad += equal != len(layers) or len(layers) != 42
sys.exit(bad != 0)
