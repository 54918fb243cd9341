#!/usr/bin/env python3
"""Half-quadratic quantization, stated again in numpy, and what it makes of known weights.

usage: make_hqq_golden.py FOLDER             writes FOLDER/groups.safetensors (numpy, safetensors)
       make_hqq_golden.py --beside-library   prints our errors and those of the package hqq (0.2.8, with torch)

groups.safetensors: "<spec>/scale", "<spec>/zero", [groups] fp32, "<spec>/codes", [rows, cols] u8, and "<spec>/error",
[2] fp64, the sum of |w - w'|^0.7 of the solution and of plain rounding. Weights are made of integers, so that the test
makes the same: weights() below.
"""
import sys

import numpy as np

ROWS, COLS = 6, 192
P, BETA, KAPPA, ITERATIONS = 0.7, 10.0, 1.01, 20


def weights(rows=ROWS, cols=COLS):
    """The sum of four uniform numbers, each row around another mean, and an outlier in every 50th place."""
    i = np.arange(rows * cols, dtype=np.uint64)
    total = np.zeros(rows * cols, np.float64)
    for t in range(4):
        mixed = ((i + np.uint64(1)) * np.uint64(2654435761) + np.uint64(t) * np.uint64(40503)) & np.uint64(0xFFFFFFFF)
        mixed ^= mixed >> np.uint64(15)
        mixed = (mixed * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
        total += (mixed >> np.uint64(20)).astype(np.float64) - 2048
    w = (total / 65536).reshape(rows, cols)
    w[:, 7::50] *= 4
    return (w + np.arange(rows)[:, None] / 256).astype(np.float32)


def f16(x):
    return np.maximum(x.astype(np.float16).astype(np.float32), np.float32(2.0**-24))


def solve(w, bits, kind, fit_scale, counts=None, p=P):
    """Groups in rows: scale, zero, codes, the error and rounding's of each group."""
    w = w.astype(np.float32)
    top = np.float32(2**bits - 1)
    counts = np.ones_like(w, np.float64) if counts is None else np.broadcast_to(counts, w.shape).astype(np.float64)
    low, high = w.min(1, keepdims=True), w.max(1, keepdims=True)
    if kind == "asymreal":
        scale = f16(np.maximum((high - low) / top, np.maximum(abs(low), abs(high)) / np.float32(1024)))
        zero = (-low / scale).astype(np.float16).astype(np.float32)
    elif kind == "asym":
        least, most = np.minimum(low, 0), np.maximum(high, 0)
        scale = f16((most - least) / top)
        zero = np.clip(np.rint(-(least / scale)), 0, top)
    else:
        scale = f16(np.maximum(abs(low), abs(high)) / (top / 2))
        zero = np.full_like(scale, 2 ** (bits - 1))
    unit = scale.astype(np.float64)

    def codes(scale, zero):
        if kind == "asymreal":
            return np.clip(np.rint(w / scale + zero), 0, top).astype(np.float64)
        return np.clip(np.rint(w / scale) + zero, 0, top).astype(np.float64)

    best = None
    beta = BETA
    done = np.zeros(len(w), bool)
    for turn in range(ITERATIONS):
        q = codes(scale, zero)
        e = (w - (q - zero) * scale.astype(np.float64)) / unit
        size = np.abs(e)
        power = np.maximum(size, 2.0**-127) ** (p - 1)
        error = (counts * size * power).sum(1)
        if best is None:
            best, rounding = [scale.copy(), zero.copy(), error.copy()], error.copy()
        else:
            better = ~done & (error < best[2])
            done |= ~better
            for kept, new in zip(best, (scale, zero, error)):
                kept[better] = new[better]
        if done.all():
            break
        target = w - np.sign(e) * np.maximum(0, size - power / beta) * unit
        c = counts.sum(1, keepdims=True)
        mean_q, mean_w = (counts * q).sum(1, keepdims=True) / c, (counts * target).sum(1, keepdims=True) / c
        new = scale
        if fit_scale and kind != "sym":
            slope = (counts * (q - mean_q) * (target - mean_w)).sum(1, keepdims=True)
            new = f16(slope / (counts * (q - mean_q) ** 2).sum(1, keepdims=True))
        if kind == "asymreal":
            zero = (mean_q - mean_w / new).astype(np.float16).astype(np.float32)
        elif kind == "asym":
            zero = np.clip(np.rint(mean_q - mean_w / new), 0, top).astype(np.float32)
        if fit_scale and kind != "asymreal":
            d = q - zero
            new = f16((counts * d * target).sum(1, keepdims=True) / (counts * d * d).sum(1, keepdims=True))
        scale = new.astype(np.float32)
        beta *= KAPPA
    scale, zero, error = best
    measure = unit[:, 0] ** p
    return scale, zero, codes(scale, zero).astype(np.uint8), error * measure, rounding * measure


def write(folder):
    from safetensors.numpy import save_file

    out = {}
    for bits, group, kind, fit_scale in ((4, 64, "asymreal", False), (2, 32, "asymreal", True), (3, 48, "asym", True),
                                         (4, 96, "sym", True)):
        groups = weights().reshape(-1, group)
        scale, zero, codes, error, rounding = solve(groups, bits, kind, fit_scale)
        name = f"int{bits}-g{group}-{kind}"
        out[f"{name}/scale"], out[f"{name}/zero"] = scale[:, 0].astype(np.float32), zero[:, 0].astype(np.float32)
        out[f"{name}/codes"] = codes.reshape(ROWS, COLS)
        out[f"{name}/error"] = np.array([error.sum(), rounding.sum()])
    save_file(out, f"{folder}/groups.safetensors")


def beside_library():
    import torch
    from hqq.core.quantize import Quantizer

    w = np.random.default_rng(0).normal(0, 0.02, (1024, 1024)).astype(np.float32)
    for bits, group in ((4, 64), (3, 64), (2, 64), (2, 16)):
        codes, meta = Quantizer.quantize(torch.from_numpy(w), nbits=bits, group_size=group, optimize=True, axis=1,
                                         round_zero=bits == 4, device="cpu", compute_dtype=torch.float32)
        theirs = Quantizer.dequantize(codes, meta).float().numpy()
        for fit_scale in (False, True):
            scale, zero, q, _, _ = solve(w.reshape(-1, group), bits, "asymreal", fit_scale)
            ours = ((q - zero) * scale).reshape(w.shape)
            show = [np.abs(w - x).mean() / np.abs(w).mean() for x in (theirs, ours)]
            show += [(np.abs(w - x) ** P).mean() / (np.abs(w) ** P).mean() for x in (theirs, ours)]
            print(f"{bits} bits, groups of {group}, fit_scale {fit_scale}: mean |e|/mean |w| of hqq {show[0]:.4f}, "
                  f"ours {show[1]:.4f}; the same of ^{P} {show[2]:.4f}, {show[3]:.4f}")


if __name__ == "__main__":
    beside_library() if sys.argv[1] == "--beside-library" else write(sys.argv[1])
