#!/usr/bin/env python3
"""A copy of a model whose linear layers are what the package hqq (0.2.8, with torch and safetensors) makes of them,
decoded to fp32: `nibble eval` then says what its zero points are worth beside ours.

usage: quantize_with_hqq.py MODEL OUT BITS GROUP_SIZE
"""
import json
import shutil
import sys
import time
from pathlib import Path

import torch
from hqq.core.quantize import Quantizer
from safetensors.torch import load_file, save_file

source, out, bits, group = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
shutil.copytree(source, out)
tensors = {}
seconds = 0.0
for name, w in load_file(source / "model.safetensors").items():
    w = w.float()
    if ".layers." in name and w.dim() == 2:
        begin = time.perf_counter()
        codes, meta = Quantizer.quantize(w, nbits=bits, group_size=group, optimize=True, axis=1, round_zero=bits == 4,
                                         device="cpu", compute_dtype=torch.float32)
        seconds += time.perf_counter() - begin
        w = Quantizer.dequantize(codes, meta).float().reshape(w.shape)
    tensors[name] = w.contiguous()
save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
config = json.loads((out / "config.json").read_text())
config["torch_dtype"] = "float32"
(out / "config.json").write_text(json.dumps(config, indent=2))
print(f"{bits} bits, groups of {group}: quantized in {seconds:.1f} s")
