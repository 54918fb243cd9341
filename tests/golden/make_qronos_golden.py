#!/usr/bin/env python3
"""Writes what Qronos (Zhang et al. 2025, arXiv 2505.11695) makes of a small layer, restated in numpy and fp64.

usage: make_qronos_golden.py FOLDER   (numpy, safetensors)

FOLDER/layer.safetensors: "x" [tokens, in], the layer's input, "full", the same in full precision, "weights" [out, in];
and for each case "<case>/codes" [out, in] u8, "<case>/scales" [out, groups] f32, "<case>/zeros" [out, groups] i32, of
groups of 16 in the order of solving, which "<case>/order" [in] i32 gives. The steps are those of the paper, with the
inverse, its downdate by the first column, and that inverse's Cholesky factor, none of which the library ever forms.
Grids are the library's: asymmetric, fitted to a group when its first column's turn comes, in fp32; that of the first
group, to what its first column is rounded from and to the least-squares solution of the others.
"""
import sys

import numpy as np
from safetensors.numpy import save_file

ROWS, COLS, TOKENS, GROUP, DAMP = 6, 40, 96, 16, 0.01


def layer():
    rng = np.random.default_rng(2505)
    causes = rng.normal(size=(TOKENS, COLS // 4)) @ rng.normal(size=(COLS // 4, COLS)) / np.sqrt(COLS / 4)
    full = (causes + 0.3 * rng.normal(size=causes.shape)) * np.exp(rng.normal(size=COLS))
    x = 0.9 * full + 0.1 * np.abs(full) * rng.normal(size=full.shape)
    weights = rng.normal(size=(ROWS, COLS))
    # Multiples of 1/32 up to 4: fp32 sums their products exactly, so that both sides begin with the same numbers.
    return [(np.round(np.clip(a, -4, 4) * 32) / 32).astype(np.float32) for a in (x, full, weights)]


def grid(values, bits):
    low, high = np.float32(min(values.min(), 0)), np.float32(max(values.max(), 0))
    scale = (high - low) / np.float32(2**bits - 1)
    return scale, int(np.rint(-low / scale))


def quantized(value, scale, zero, bits):
    code = int(np.clip(np.rint(value / np.float64(scale)) + zero, 0, 2**bits - 1))
    return code, np.float64(np.float32(code - zero) * scale)


def solve_row(w, h, g, order, bits):
    """Codes, scales and zeros of one row, in the order of solving."""
    h, g, w = h[np.ix_(order, order)], g[np.ix_(order, order)], w[order]
    lam = DAMP * np.mean(np.diag(h)) * np.eye(COLS)
    inverse = np.linalg.inv(h + lam)
    codes, scales, zeros = np.zeros(COLS, np.uint8), [], []
    solution = w @ (g + lam) @ inverse
    first = (w @ g[:, 0] - w[1:] @ h[1:, 0]) / h[0, 0]
    scale, zero = grid(np.concatenate([[first], solution[1:GROUP]]), bits)
    scales.append(scale), zeros.append(zero)
    codes[0], q = quantized(first, scale, zero, bits)
    downdated = inverse[1:, 1:] - np.outer(inverse[1:, 0], inverse[0, 1:]) / inverse[0, 0]
    v = (w @ (g + lam)[:, 1:] - q * h[0, 1:]) @ downdated
    upper = np.linalg.cholesky(downdated).T
    for i in range(1, COLS):
        if i % GROUP == 0:
            scale, zero = grid(v[i - 1 : i - 1 + GROUP], bits)
            scales.append(scale), zeros.append(zero)
        codes[i], q = quantized(v[i - 1], scale, zero, bits)
        v[i - 1 :] -= (v[i - 1] - q) / upper[i - 1, i - 1] * upper[i - 1, i - 1 :]
    return codes, scales, zeros


def main():
    x, full, weights = layer()
    x64, full64 = x.astype(np.float64), full.astype(np.float64)
    h, g = 2 / TOKENS * x64.T @ x64, 2 / TOKENS * full64.T @ x64
    tensors = {"x": x, "full": full, "weights": weights}
    for name, bits, act in (("plain", 3, False), ("act", 3, True), ("two", 2, False), ("eight", 8, True)):
        order = np.argsort(-np.diag(h), kind="stable") if act else np.arange(COLS)
        rows = [solve_row(w, h, g, order, bits) for w in weights.astype(np.float64)]
        codes = np.zeros((ROWS, COLS), np.uint8)
        codes[:, order] = np.array([r[0] for r in rows])
        tensors[f"{name}/codes"] = codes
        tensors[f"{name}/scales"] = np.array([r[1] for r in rows], np.float32)
        tensors[f"{name}/zeros"] = np.array([r[2] for r in rows], np.int32)
        tensors[f"{name}/order"] = order.astype(np.int32)
    save_file(tensors, f"{sys.argv[1]}/layer.safetensors")


if __name__ == "__main__":
    main()
