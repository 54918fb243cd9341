"""Decodes a bitsandbytes 4-bit checkpoint by the published format description alone, independently of nibble.

  python3 dequantize_bnb4.py QUANTIZED.safetensors OUT.safetensors

Needs numpy and safetensors. Every <name>.weight with a quant_state becomes an F32 tensor of its shape in OUT.
"""
import json
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


def dequantize(get, weight):
    state_name = next(k for k in names if k.startswith(weight + ".quant_state.bitsandbytes__"))
    state = json.loads(bytes(get(state_name)).decode())
    count = int(np.prod(state["shape"]))
    packed = get(weight).reshape(-1)
    codes = np.stack([packed >> 4, packed & 15], 1).reshape(-1)[:count]  # the even element in the high nibble
    absmax = get(weight + ".absmax")
    if "nested_offset" in state:  # fused multiply-add: exact product, one rounding of the sum
        nested = np.repeat(get(weight + ".nested_absmax"), state["nested_blocksize"])[: absmax.size]
        mapped = get(weight + ".nested_quant_map")[absmax]
        absmax = (mapped.astype(np.float64) * nested + np.float64(np.float32(state["nested_offset"]))).astype(np.float32)
    scale = np.repeat(absmax, state["blocksize"])[:count]
    return (get(weight + ".quant_map")[codes] * scale).reshape(state["shape"])


with safe_open(sys.argv[1], "np") as f:
    names = list(f.keys())
    weights = [n.split(".quant_state.")[0] for n in names if ".quant_state." in n]
    save_file({w: dequantize(f.get_tensor, w) for w in weights}, sys.argv[2])
print(f"{len(weights)} tensors")
