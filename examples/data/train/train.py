"""Trains the embedded model: a byte-level Llama of 4.9 M parameters on five novels of Jane Austen.

  Rscript export_texts.R texts/
  python train.py --texts texts/ --output ../austen-5m --minutes 40

The sixth novel, Northanger Abbey, is never trained on: it gives the validation figure and evaluation.txt.
The schedule follows the wall clock, so a run always ends on time; more minutes give a better model.
Needs torch, numpy and safetensors; transformers only for --check.
"""
import argparse, json, math, pathlib, time
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

HELD_OUT = "northanger_abbey"
TRAINED_ON = ["sense_and_sensibility", "pride_and_prejudice", "mansfield_park", "emma", "persuasion"]
CONFIG = dict(hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4,
              num_key_value_heads=2, head_dim=64, max_position_embeddings=512, vocab_size=256,
              rms_norm_eps=1e-5, rope_theta=10000.0)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        h = c["hidden_size"]
        self.q_proj = nn.Linear(h, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(h, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(h, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, h, bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        split = lambda y, n: y.view(b, t, n, self.head_dim).transpose(1, 2)
        q, k, v = split(self.q_proj(x), self.heads), split(self.k_proj(x), self.kv_heads), split(self.v_proj(x), self.kv_heads)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        repeat = self.heads // self.kv_heads
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


def rotate(x, cos, sin):
    """Rotary embedding in the half-split order of Hugging Face's Llama."""
    a, b = x.chunk(2, -1)
    return (x * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, m = c["hidden_size"], c["intermediate_size"]
        self.gate_proj, self.up_proj = nn.Linear(h, m, bias=False), nn.Linear(h, m, bias=False)
        self.down_proj = nn.Linear(m, h, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, c, dropout):
        super().__init__()
        self.self_attn, self.mlp, self.drop = Attention(c), Mlp(c), nn.Dropout(dropout)
        self.input_layernorm = nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.post_attention_layernorm = nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])

    def forward(self, x, cos, sin):
        x = x + self.drop(self.self_attn(self.input_layernorm(x), cos, sin))
        return x + self.drop(self.mlp(self.post_attention_layernorm(x)))


class Body(nn.Module):
    def __init__(self, c, dropout):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Block(c, dropout) for _ in range(c["num_hidden_layers"]))
        self.norm = nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])


class Llama(nn.Module):
    """Parameter names are those of transformers' LlamaForCausalLM, so the state dict is the checkpoint."""

    def __init__(self, c, dropout=0.0):
        super().__init__()
        self.c, self.model = c, Body(c, dropout)
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        inverse = c["rope_theta"] ** (-torch.arange(0, c["head_dim"], 2).float() / c["head_dim"])
        angle = torch.arange(c["max_position_embeddings"]).float()[:, None] * inverse[None]
        angle = torch.cat((angle, angle), -1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                out_scale = (2 * c["num_hidden_layers"]) ** -0.5 if "o_proj" in name or "down_proj" in name else 1.0
                nn.init.normal_(p, std=0.02 if "embed" in name or "lm_head" in name else out_scale * p.shape[1] ** -0.5)

    def forward(self, ids):
        x, t = self.model.embed_tokens(ids), ids.shape[1]
        for block in self.model.layers:
            x = block(x, self.cos[:t], self.sin[:t])
        return self.lm_head(self.model.norm(x)).float()


def orthogonalise(g, steps=5):
    """Newton-Schulz iteration to the nearest semi-orthogonal matrix (Jordan et al. 2024, Muon)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16() / (g.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return (x.T if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; for the matrices inside the blocks."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


@torch.no_grad()
def bits_per_byte(model, data, windows=None, context=512):
    """Mean bits per predicted byte over windows of `context`, each starting afresh."""
    model.eval()
    starts = list(range(0, len(data) - context - 1, context))
    if windows: starts = starts[:: max(1, len(starts) // windows)][:windows]
    total = 0.0
    for i in range(0, len(starts), 32):
        batch = torch.stack([data[s:s + context + 1] for s in starts[i:i + 32]]).long()
        with torch.autocast("cpu", torch.bfloat16, enabled=windows is not None):
            logits = model(batch[:, :-1])
        total += F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    model.train()
    return total / (len(starts) * context) / math.log(2)


@torch.no_grad()
def sample(model, prompt, count=400, temperature=0.7, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = list(prompt.encode())
    model.eval()
    for _ in range(count):
        logits = model(torch.tensor([ids[-512:]]))[0, -1] / temperature
        ids.append(torch.multinomial(logits.softmax(-1), 1, generator=generator).item())
    model.train()
    return bytes(ids).decode(errors="replace")


def export(model, folder):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().bfloat16().contiguous() for name, p in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", **model.c, hidden_act="silu",
                  attention_bias=False, mlp_bias=False, tie_word_embeddings=False, rope_scaling=None,
                  bos_token_id=None, eos_token_id=None, torch_dtype="bfloat16")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByteTokenizer"}, indent=2) + "\n")


def check_with_transformers(model, folder, data):
    """The checkpoint as transformers reads it gives this file's logits."""
    from transformers import LlamaForCausalLM
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = Llama(model.c)
    ours.load_state_dict({n: p.detach().bfloat16().float() for n, p in model.named_parameters()}, strict=False)
    ids = data[:256].long()[None]
    with torch.no_grad():
        return (theirs(ids).logits - ours(ids)).abs().max().item()


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--texts", type=pathlib.Path, required=True)
    args.add_argument("--output", type=pathlib.Path, required=True)
    args.add_argument("--minutes", type=float, default=40)
    args.add_argument("--tokens", type=int, default=8192, help="tokens in a batch")
    args.add_argument("--muon-lr", type=float, default=0.02)
    args.add_argument("--adam-lr", type=float, default=3e-3)
    args.add_argument("--dropout", type=float, default=0.1)
    args.add_argument("--weight-decay", type=float, default=0.1)
    args.add_argument("--check", action="store_true", help="compare with transformers at the end")
    a = args.parse_args()
    torch.manual_seed(1)

    read = lambda name: (a.texts / f"{name}.txt").read_bytes()
    train = torch.from_numpy(np.frombuffer(b"\n\n".join(read(n) for n in TRAINED_ON), dtype=np.uint8).copy())
    held = torch.from_numpy(np.frombuffer(read(HELD_OUT), dtype=np.uint8).copy())
    data = a.output.parent
    (data / "evaluation.txt").write_bytes(read(HELD_OUT)[100_000:200_000])
    (data / "calibration.txt").write_bytes(b"".join(read(n)[50_000:70_000] for n in TRAINED_ON))

    model = Llama(CONFIG, a.dropout)
    matrices = [p for n, p in model.named_parameters() if "layers" in n and p.dim() == 2]
    rest = [p for n, p in model.named_parameters() if not ("layers" in n and p.dim() == 2)]
    optimizers = [Muon(matrices, a.muon_lr, weight_decay=a.weight_decay),
                  torch.optim.AdamW(rest, a.adam_lr, betas=(0.9, 0.95), weight_decay=0.01)]
    peaks = [a.muon_lr, a.adam_lr]
    lines = []

    def log(text):
        print(text, flush=True)
        lines.append(text)
        (pathlib.Path(__file__).parent / "train.log").write_text("\n".join(lines) + "\n")

    log(f"parameters {sum(p.numel() for p in model.parameters())}, training bytes {len(train)}, held-out bytes {len(held)}")
    start, step, reported, seen, smooth = time.time(), 0, 0.0, 0, None
    while (done := (time.time() - start) / (60 * a.minutes)) < 1:
        rate = min(1, (step + 1) / 100) * min(1, (1 - done) / 0.5)  # flat, then linear decay over the second half
        for optimizer, peak in zip(optimizers, peaks):
            optimizer.param_groups[0]["lr"] = peak * rate
        context = 256 if done < 0.6 else 512
        starts = torch.randint(len(train) - context - 1, (a.tokens // context,))
        batch = torch.stack([train[s:s + context + 1] for s in starts]).long()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + a.tokens
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if time.time() - start - reported >= 60:
            reported = time.time() - start
            log(f"{reported:7.0f} s  step {step:6d}  bytes {seen/1e6:6.1f} M  train {smooth/math.log(2):.4f}  "
                f"held-out {bits_per_byte(model, held, windows=64):.4f} bits/byte")
            if step < 3000 or int(reported) % 300 < 60: export(model, a.output)
    export(model, a.output)
    log(f"held-out novel, whole, fp32 weights: {bits_per_byte(model, held):.4f} bits/byte")
    rounded = Llama(CONFIG)
    rounded.load_state_dict({n: p.detach().bfloat16().float() for n, p in model.named_parameters()}, strict=False)
    log(f"held-out novel, whole, bf16 weights: {bits_per_byte(rounded, held):.4f} bits/byte")
    log("sample: " + sample(rounded, "It was a dark and rainy evening, and Catherine "))
    if a.check: log(f"largest difference from transformers' logits: {check_with_transformers(model, a.output, held):.2e}")


if __name__ == "__main__":
    main()
