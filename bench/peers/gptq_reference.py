"""The GPTQ algorithm as published (Frantar et al. 2022, and the operations of its reference implementation), in torch,
to be timed beside ours on the same layer:

    build/release/bench/solver_gptq_bench --layer DIR
    python bench/peers/gptq_reference.py DIR --act-order --threads 2

DIR/w.npy is W [out, in], DIR/h.npy is H = (2/tokens)·Σ x·xᵀ. Prints time and loss as JSON. Needs numpy and torch.
"""

import argparse
import json
import time
from pathlib import Path

import numpy
import torch


class Grid:
    """One scale and zero point a row, for the columns it was last fitted to."""

    def __init__(self, bits, symmetric):
        self.top, self.symmetric = 2**bits - 1, symmetric

    def fit(self, w):
        zero = torch.zeros(w.shape[0])
        low, high = torch.minimum(w.min(1)[0], zero), torch.maximum(w.max(1)[0], zero)
        if self.symmetric:
            high = torch.maximum(low.abs(), high)
            low = torch.where(low < 0, -high, low)
        empty = (low == 0) & (high == 0)
        low[empty], high[empty] = -1, 1
        self.scale = ((high - low) / self.top).unsqueeze(1)
        middle = torch.full_like(self.scale, (self.top + 1) / 2)
        self.zero = middle if self.symmetric else torch.round(-low.unsqueeze(1) / self.scale)

    def round(self, x):
        code = torch.clamp(torch.round(x / self.scale) + self.zero, 0, self.top)
        return self.scale * (code - self.zero)


def solve(w, h, bits=4, group=128, symmetric=True, act_order=False, damp=0.01, block=128):
    """Returns the quantized weights and the loss ½Σe²."""
    w, h = w.clone(), h.clone()
    columns = w.shape[1]
    grid = Grid(bits, symmetric)
    dead = torch.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    if group < 0:
        grid.fit(w)
    if act_order:
        order = torch.argsort(torch.diag(h), descending=True)
        w, h = w[:, order], h[order][:, order]
    losses, q = torch.zeros_like(w), torch.zeros_like(w)
    index = torch.arange(columns)
    h[index, index] += damp * torch.mean(torch.diag(h))
    h = torch.linalg.cholesky(h)
    h = torch.cholesky_inverse(h)
    u = torch.linalg.cholesky(h, upper=True)
    for first in range(0, columns, block):
        last = min(first + block, columns)
        part, u_part = w[:, first:last].clone(), u[first:last, first:last]
        q_part, errors, loss_part = torch.zeros_like(part), torch.zeros_like(part), torch.zeros_like(part)
        for i in range(last - first):
            column, pivot = part[:, i], u_part[i, i]
            if group > 0 and (first + i) % group == 0:
                grid.fit(w[:, first + i : first + i + group])
            value = grid.round(column.unsqueeze(1)).flatten()
            q_part[:, i] = value
            loss_part[:, i] = (column - value) ** 2 / pivot**2
            error = (column - value) / pivot
            part[:, i:] -= error.unsqueeze(1).matmul(u_part[i, i:].unsqueeze(0))
            errors[:, i] = error
        q[:, first:last], losses[:, first:last] = q_part, loss_part / 2
        w[:, last:] -= errors.matmul(u[first:last, last:])
    if act_order:
        q = q[:, torch.argsort(order)]
    return q, losses.sum(dtype=torch.float64).item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=128, help="-1: one scale a row")
    parser.add_argument("--asymmetric", action="store_true")
    parser.add_argument("--act-order", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    w, h = (torch.from_numpy(numpy.load(options.folder / name)) for name in ("w.npy", "h.npy"))
    times = []
    for _ in range(options.repetitions):
        start = time.perf_counter()
        _, loss = solve(w, h, options.bits, options.group, not options.asymmetric, options.act_order)
        times.append(time.perf_counter() - start)
    print(json.dumps({"solver": "torch " + torch.__version__, "threads": options.threads, "size": w.shape[1],
                      "seconds": min(times), "loss": loss}))


if __name__ == "__main__":
    with torch.no_grad():
        main()
