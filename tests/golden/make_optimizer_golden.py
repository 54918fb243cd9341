#!/usr/bin/env python3
"""Writes what torch's AdamW and bitsandbytes' 8-bit AdamW, Lion and 8-bit Lion make of known gradients.

usage: make_optimizer_golden.py FOLDER   (torch 2.15, bitsandbytes 0.50.2, numpy, safetensors; a CPU is enough)

FOLDER/steps.safetensors: "<optimizer>/<step>" is the parameter after 1, 2 and 10 steps, [600] fp32, and
"<optimizer>/<step>/state1" and "…/state2" are the codes of its moments then, where they have 8 bits. Parameter and
gradients are made of integers, so that the test makes the same: value(i, t) below.
"""
import sys

import bitsandbytes as bnb
import numpy as np
import torch
from safetensors.numpy import save_file

SIZE, STEPS, KEPT = 600, 10, (1, 2, 10)


def value(t):
    """All elements of gradient t (parameter: t = 0), from -1 to 1."""
    i = np.arange(SIZE, dtype=np.uint64)
    mixed = ((i + np.uint64(1)) * np.uint64(2654435761) + np.uint64(t) * np.uint64(40503)) & np.uint64(0xFFFFFFFF)
    u = ((mixed >> np.uint64(16)).astype(np.float32) / np.float32(32768)) - np.float32(1)
    return u


def run(make):
    parameter = torch.nn.Parameter(torch.from_numpy(value(0).copy()))
    optimizer = make([parameter])
    out = {}
    for t in range(1, STEPS + 1):
        parameter.grad = torch.from_numpy(value(t) * np.float32(0.01))
        optimizer.step()
        if t in KEPT:
            out[f"{t}"] = parameter.detach().numpy().copy()
            for part in ("state1", "state2"):
                state = optimizer.state[parameter].get(part)
                if state is not None and state.dtype == torch.uint8:
                    out[f"{t}/{part}"] = state.numpy().copy()
    return out


def main():
    folder = sys.argv[1]
    small = {"min_8bit_size": 256}
    optimizers = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1),
        "adamw8": lambda p: bnb.optim.AdamW8bit(p, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, **small),
        "lion": lambda p: bnb.optim.Lion(p, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1),
        "lion8": lambda p: bnb.optim.Lion8bit(p, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, **small),
    }
    tensors = {}
    for name, make in optimizers.items():
        for step, parameter in run(make).items():
            tensors[f"{name}/{step}"] = parameter
    save_file(tensors, f"{folder}/steps.safetensors")


if __name__ == "__main__":
    main()
