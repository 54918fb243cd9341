"""Makes tests/interop/fixtures: one small layer in each layout, packed by the library that the layout comes from, with
the values that the same library decodes.

  NIBBLE_LIBRARY_SOURCES=… python make_fixtures.py        # see libraries.py; once, the results are in the repository

Each fixture is a folder: config.json with the quantization_config, and model.safetensors with the layer's tensors under
"layer" and the decoded weight under "expected", in the type in which the library computed it.
"""
import json, pathlib, shutil, sys
from types import SimpleNamespace
import torch
from safetensors.torch import save_file
import libraries

torch.manual_seed(20261125)
ROWS, COLS = 64, 128
here = pathlib.Path(__file__).resolve().parent / "fixtures"
shutil.rmtree(here, ignore_errors=True)


def save(name, config, tensors, expected):
    folder = here / name
    folder.mkdir(parents=True)
    tensors = {"layer." + k: v.detach().contiguous().clone() for k, v in tensors.items()}
    save_file({**tensors, "expected": expected.detach().contiguous().clone()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}, indent=1) + "\n")
    print(f"{name:32} {sum(f.stat().st_size for f in folder.iterdir()):7} bytes")


def quantize(bits, group, sym, least_zero=0, act_order=False):
    """Round to nearest: a linear layer with exact codes, scales f16 and zeros [rows, groups], and g_idx."""
    w = torch.randn(ROWS, COLS)
    groups = COLS // group
    g_idx = torch.arange(COLS, dtype=torch.int32) // group
    if act_order:
        g_idx = g_idx[torch.randperm(COLS)]
    scales, zeros = torch.zeros(ROWS, groups), torch.zeros(ROWS, groups)
    for g in range(groups):
        part = w[:, g_idx == g]
        low, high = part.amin(1), part.amax(1)
        if g == 0 and not sym:  # the first rows hold positive values only: their zero point is 0
            part[:8] = part[:8].abs()
            w[:, g_idx == g] = part
            low, high = part.amin(1).clamp(max=0), part.amax(1)
        if sym:
            high = part.abs().amax(1)
            low = -high
        scales[:, g] = ((high - low) / (2**bits - 1)).half().float()
        zeros[:, g] = 2 ** (bits - 1) if sym else torch.round(-low / scales[:, g]).clamp(least_zero, 2**bits - 1)
    s, z = scales[:, g_idx.long()], zeros[:, g_idx.long()]
    codes = torch.clamp(torch.round(w / s) + z, 0, 2**bits - 1)
    linear = torch.nn.Linear(COLS, ROWS, bias=True)
    linear.weight.data = (codes - z) * s
    return linear, scales, zeros, g_idx


def gptq_config(bits, group, sym, act_order, **more):
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": sym, "desc_act": act_order, **more}


def auto_gptq():
    with_order, without = libraries.auto_gptq()
    cases = [(2, 32, True, False), (3, 64, False, True), (4, 32, True, False), (4, 64, False, True), (8, -1, True, False),
             (3, -1, True, False), (4, 128, False, False)]
    for bits, group, sym, order in cases:
        linear, scales, zeros, g_idx = quantize(bits, group if group > 0 else COLS, sym, 1, order)
        linear.half()
        kind = with_order if order else without
        layer = kind(bits, group if group > 0 else COLS, COLS, ROWS, True, weight_dtype=torch.float16)
        linear.float()
        layer.pack(linear, scales.clone(), zeros.clone(), g_idx.clone())
        layer.scales = layer.scales.half()
        # The product with the unit matrix, without bias, is the decoded weight.
        layer.bias = None
        layer.float()
        decoded = layer(torch.eye(COLS)).T
        tensors = {k: getattr(layer, k) for k in ["qweight", "qzeros", "g_idx"]}
        tensors["scales"] = layer.scales.half()
        if not order and group == 32 and bits == 4:
            del tensors["g_idx"]  # as old files have it
        name = f"gptq-auto-{bits}bit-{'channel' if group < 0 else f'g{group}'}{'' if sym else '-asym'}{'-act' if order else ''}"
        save(name, gptq_config(bits, group, sym, order), tensors, decoded)


def gptqmodel():
    linear_class, to_v1, _ = libraries.gptqmodel()
    cases = [(4, 32, False, False, "gptq_v2"), (4, 32, False, False, "gptq"), (3, 32, False, True, "gptq_v2"),
             (2, 64, False, False, "gptq"), (8, 64, True, True, "gptq_v2"), (3, 64, False, False, "gptq"),
             (4, 128, True, False, "gptq")]
    for bits, group, sym, order, version in cases:
        linear, scales, zeros, g_idx = quantize(bits, group, sym, 0, order)
        layer = linear_class(bits=bits, group_size=group, sym=sym, desc_act=order, in_features=COLS, out_features=ROWS, bias=True)
        layer.pack(linear, scales, zeros, g_idx)
        layer.post_init()
        decoded = layer.dequantize_weight().T
        if version == "gptq":
            to_v1(layer, SimpleNamespace(bits=bits, pack_dtype=torch.int32))
        tensors = {k: getattr(layer, k) for k in ["qweight", "qzeros", "scales", "g_idx"]}
        more = {"checkpoint_format": version, "lm_head": False, "pack_dtype": "int32", "meta": {"quantizer": ["gptqmodel:7.7.0"]}}
        name = f"gptq-model-{version.replace('_', '-')}-{bits}bit-g{group}{'' if sym else '-asym'}{'-act' if order else ''}"
        save(name, gptq_config(bits, group, sym, order, **more), tensors, decoded)


def awq():
    gemm, gemv, fast, packing = libraries.awq()
    for version, kind, group in [("gemm", gemm.WQLinear_GEMM, 32), ("gemm", gemm.WQLinear_GEMM, 128),
                                 ("gemv", gemv.WQLinear_GEMV, 32), ("gemv", gemv.WQLinear_GEMV, 64),
                                 ("gemv", gemv.WQLinear_GEMV, 128), ("gemv_fast", fast.WQLinear_GEMVFast, 32),
                                 ("gemv_fast", fast.WQLinear_GEMVFast, 128)]:
        linear, scales, zeros, _ = quantize(4, group, False)
        plain = gemm.WQLinear_GEMM.from_linear(linear, 4, group, scales=scales.T.half(), zeros=zeros.T)
        decoded = packing.dequantize_gemm(plain.qweight, plain.qzeros, plain.scales, 4, group).T
        transposed = version == "gemm"
        layer = kind.from_linear(linear, 4, group, scales=(scales.T if transposed else scales).half(),
                                 zeros=zeros.T if transposed else zeros)
        config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": version}
        save(f"awq-{version.replace('_', '-')}-g{group}", config, {k: getattr(layer, k) for k in ["qweight", "qzeros", "scales"]}, decoded)


def compressed_tensors():
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor as Compressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
    for bits, strategy, group, sym, dtype in [(4, "group", 32, True, torch.bfloat16), (4, "group", 64, False, torch.bfloat16),
                                              (8, "channel", None, True, torch.float16), (3, "group", 32, False, torch.float16),
                                              (5, "channel", None, False, torch.float32), (4, "tensor", None, False, torch.float32)]:
        size = group or COLS
        linear, scales, zeros, _ = quantize(bits, size, sym)
        scales, zeros = scales.to(dtype), zeros - 2 ** (bits - 1)
        if strategy == "tensor":
            scales, zeros = scales[:1, 0], zeros[:1, 0]
        args = QuantizationArgs(num_bits=bits, type="int", symmetric=sym, strategy=strategy, group_size=group)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        state = {"weight": linear.weight.data.to(dtype), "weight_scale": scales, "weight_zero_point": zeros.to(torch.int8)}
        packed = Compressor.compress(state, scheme)
        decoded = Compressor.decompress(dict(packed), scheme)["weight"]
        config = QuantizationConfig(config_groups={"group_0": scheme}, format="pack-quantized").model_dump(mode="json")
        config["quant_method"] = "compressed-tensors"
        save(f"compressed-tensors-{bits}bit-{strategy}{group or ''}{'' if sym else '-asym'}", config, packed, decoded)


def bitsandbytes():
    import bitsandbytes.functional as bnb
    for kind, nested in [("nf4", False), ("nf4", True), ("fp4", False)]:
        w = torch.randn(ROWS, COLS)
        packed, state = bnb.quantize_4bit(w, quant_type=kind, compress_statistics=nested, blocksize=64)
        tensors = {"weight": packed, **{"weight." + k: v for k, v in state.as_dict(packed=True).items()}}
        save(f"bitsandbytes-{kind}{'-nested' if nested else ''}", {"quant_method": "bitsandbytes", "load_in_4bit": True},
             tensors, bnb.dequantize_4bit(packed, state))
    w = torch.randn(ROWS, COLS).half()
    codes, scb, _ = bnb.int8_vectorwise_quant(w)
    save("bitsandbytes-int8", {"quant_method": "bitsandbytes", "load_in_8bit": True},
         {"weight": codes, "SCB": scb, "weight_format": torch.tensor(0, dtype=torch.uint8)},
         bnb.int8_vectorwise_dequant(codes, scb))


for make in [auto_gptq, gptqmodel, awq, compressed_tensors, bitsandbytes]:
    make()
total = sum(f.stat().st_size for f in here.rglob("*") if f.is_file())
print(f"{total} bytes in all")
sys.exit(total > 1_500_000)
