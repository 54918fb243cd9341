"""Writes small_floats/: layers in FP8, MX and NVFP4 as the real libraries write them, and what they decode them to.

  pip install torch safetensors compressed-tensors==0.20.1 transformers nvidia-modelopt==0.47.0
  python make_small_floats_golden.py

source.safetensors has the weight in fp32; each folder a checkpoint of one layer, `layer`, made of it (of its first rows,
where the library takes no short tile); decoded.safetensors the library's own decoding of each, named as the folder.
"""
import json, pathlib, types
import torch
from safetensors.torch import save_file
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, preset_name_to_scheme
from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam
from modelopt.torch.quantization.qtensor import FP8QTensor, NVFP4QTensor
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

OUT = pathlib.Path(__file__).parent / "small_floats"
ROWS, COLS, TILE = 40, 160, 32
decoded = {}


def write(name, tensors, config, values):
    (OUT / name).mkdir(parents=True, exist_ok=True)
    save_file({"layer." + k: v.detach().contiguous() for k, v in tensors.items()}, OUT / name / "model.safetensors")
    (OUT / name / "config.json").write_text(json.dumps({"quantization_config": config}, indent=1) + "\n")
    decoded[name] = values.detach().to(torch.float32).contiguous()


def groups(w, args):
    """Least and largest value of what shares a scale, shaped as the scales are."""
    if args.strategy == "tensor":
        v = w.reshape(1, -1)
    elif args.strategy == "channel":
        v = w.unsqueeze(1)
    elif args.strategy == "block":
        padded = torch.nn.functional.pad(w, (0, -COLS % TILE, 0, -ROWS % TILE))
        v = padded.reshape(padded.shape[0] // TILE, TILE, -1, TILE).transpose(1, 2).flatten(2)
    else:
        v = w.reshape(w.shape[0], -1, args.group_size)
    return v.amin(-1), v.amax(-1)


def compressed(w, name, preset, format):
    scheme = preset_name_to_scheme(preset, ["Linear"])
    args = scheme.weights
    if args.strategy == "block":
        args.block_structure = [TILE, TILE]
    low, high = groups(w, args)
    state = {"weight": w}
    global_scale = None
    if args.strategy == "tensor_group":
        global_scale = generate_gparam(w.min(), w.max())
        state["weight_global_scale"] = global_scale
    scale, _ = calculate_qparams(low, high, args, global_scale)
    state["weight_scale"] = scale
    compressor = BaseCompressor.get_value_from_registry(format)
    packed = compressor.compress(state, scheme)
    unpacked = compressor.decompress(dict(packed), scheme)["weight"]
    config = QuantizationConfig(config_groups={"group_0": scheme}, format=format, quant_method="compressed-tensors")
    said = json.loads(config.model_dump_json())
    write(name, packed, said, unpacked)


def fp8(rows, name, block, scale_fmt):
    config = types.SimpleNamespace(weight_block_size=block, scale_fmt=scale_fmt)
    op = Fp8Quantize(types.SimpleNamespace(quantization_config=config))
    made = op.convert({"weight": rows})
    values = Fp8Dequantize(None)._dequantize_one(made["weight"], made["weight_scale_inv"], torch.float32)
    said = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": block}
    if scale_fmt != "float":
        said["scale_fmt"] = scale_fmt
    write(name, made, said, values)


def modelopt(w):
    q, scale, scale_2 = NVFP4QTensor.quantize(w, 16)
    values = q.dequantize(scale=scale, double_scale=scale_2, block_sizes={-1: 16}, dtype=torch.float32)
    said = {"quant_method": "modelopt", "quant_algo": "NVFP4",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16},
                                          "targets": ["Linear"]}}, "ignore": ["lm_head"]}
    write("modelopt_nvfp4", {"weight": q._quantized_data, "weight_scale": scale, "weight_scale_2": scale_2}, said, values)
    q, scale = FP8QTensor.quantize(w)
    values = q.dequantize(scale=scale, dtype=torch.float32)
    write("modelopt_fp8", {"weight": q._quantized_data, "weight_scale": scale.reshape(()).float()},
          {"quant_method": "modelopt", "quant_algo": "FP8"}, values)
    q, scale = FP8QTensor.quantize(w, axis=0)
    values = q.dequantize(scale=scale, dtype=torch.float32)
    write("modelopt_fp8_channel", {"weight": q._quantized_data, "weight_scale": scale.reshape(-1).float()},
          {"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, values)


def main():
    torch.manual_seed(7)
    w = torch.randn(ROWS, COLS) * 0.02 * torch.exp(torch.randn(ROWS, 1))
    w[3, 32:64] = 0
    w[5, 17] = 1.5
    OUT.mkdir(exist_ok=True)
    save_file({"layer.weight": w}, OUT / "source.safetensors")
    for name, preset, format in [("fp8_tensor", "FP8", "float-quantized"), ("fp8_channel", "FP8_DYNAMIC", "float-quantized"),
                                 ("fp8_block", "FP8_BLOCK", "float-quantized"), ("mxfp8", "MXFP8", "mxfp8-quantized"),
                                 ("mxfp6", "MXFP6A16", "mxfp6-pack-quantized"),
                                 ("mxfp4", "MXFP4A16", "mxfp4-pack-quantized"),
                                 ("nvfp4", "NVFP4A16", "nvfp4-pack-quantized")]:
        compressed(w, name, preset, format)
    fp8(w[:TILE], "hf_fp8", [TILE, TILE], "float")
    fp8(w[:TILE], "hf_fp8_ue8m0", [TILE, TILE], "ue8m0")
    fp8(w[:TILE], "hf_fp8_tensor", None, "float")
    modelopt(w)
    save_file(decoded, OUT / "decoded.safetensors")


main()
