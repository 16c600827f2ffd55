#!/usr/bin/env python3
"""PyTorch on the work of gpu_check's sections: torch_peer.py kernels | 134m | 1b [--small]. Lines of JSON on standard output.

Eager bfloat16 with scaled_dot_product_attention and fused AdamW, whose state is bfloat16 too (ours is float32); each answer of a pair is a sequence of its own, padded to nothing
(answers have one length), and reference log-probs are given, as in gpu_check. --small runs on the CPU and shows no speed.
"""

import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

SMALL = "--small" in sys.argv
DEVICE = "cpu" if SMALL else "cuda"


def synchronize():
    if not SMALL:
        torch.cuda.synchronize()


def say(what, **figures):
    print(json.dumps({"what": what, **figures}), flush=True)


def seconds_of(f, rounds=5):
    """The best mean of `rounds` over as many calls as take 50 ms, behind one that is not timed."""
    def timed(calls):
        start = time.perf_counter()
        for _ in range(calls):
            f()
        synchronize()
        return (time.perf_counter() - start) / calls

    f()
    synchronize()
    best = timed(1)
    for _ in range(0 if SMALL else rounds):
        best = min(best, timed(max(1, min(1000, int(0.05 / best)))))
    return best


def kernels():
    n = 64 if SMALL else 8192
    w, x = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    seconds = seconds_of(lambda: x @ w.T)
    say(f"product of {n} rows, {n} x {n}, bf16", seconds=seconds, tflops=2e-12 * n**3 / seconds)
    cases = [(1, 130, 2, 64)] if SMALL else [(8, 2048, 32, 64), (2, 8192, 32, 64), (8, 2048, 16, 128), (2, 8192, 16, 128), (16, 2304, 32, 128)]
    for batch, length, heads, size in cases:
        q, k, v = (torch.randn(batch, heads, length, size, device=DEVICE, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        above = torch.randn_like(out)
        forward = seconds_of(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
        backward = seconds_of(lambda: torch.autograd.grad(out, (q, k, v), above, retain_graph=True))
        flops = 2 * length**2 * size * heads * batch
        say(f"attention of {batch} x {length}, D {size}, heads {heads}/{heads}, causal, bf16", forward_seconds=forward,
            forward_tflops=flops / forward * 1e-12, backward_seconds=backward, backward_tflops=2.5 * flops / backward * 1e-12)


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, 1e-5)


class Block(nn.Module):
    def __init__(self, width, heads, mlp):
        super().__init__()
        self.heads, self.before, self.behind = heads, Norm(width), Norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate_up, self.down = nn.Linear(width, 2 * mlp, bias=False), nn.Linear(mlp, width, bias=False)

    def forward(self, x, cos, sin):
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.qkv(self.before(x)).chunk(3, -1))

        def turn(y):
            left, right = y.chunk(2, -1)
            return y * cos + torch.cat((-right, left), -1) * sin

        seen = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(b, t, c))
        gate, up = self.gate_up(self.behind(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self, width, layers, heads, mlp, vocab):
        super().__init__()
        self.size = width // heads
        self.table, self.norm, self.head = nn.Embedding(vocab, width), Norm(width), nn.Linear(width, vocab, bias=False)
        self.blocks = nn.ModuleList(Block(width, heads, mlp) for _ in range(layers))

    def forward(self, ids, scored):
        """Log-probs of the last `scored` ids of each row."""
        angles = torch.outer(torch.arange(ids.shape[1], device=ids.device), 1e4 ** (-torch.arange(0, self.size, 2, device=ids.device) / self.size))
        angles = torch.cat((angles, angles), -1)
        cos, sin = angles.cos().to(self.head.weight.dtype), angles.sin().to(self.head.weight.dtype)
        x = self.table(ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        logits = self.head(self.norm(x[:, -scored - 1:-1])).float()
        return torch.log_softmax(logits, -1).gather(-1, ids[:, -scored:, None]).squeeze(-1)


def step(name, shape, prompt, answer, counts, at_once):
    torch.manual_seed(1)
    with torch.device(DEVICE):
        model = Decoder(*shape)
    model = model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0, fused=not SMALL)
    for count in counts:
        shared = torch.randint(3, shape[4], (count, 1, prompt), device=DEVICE).expand(-1, 2, -1)
        pairs = torch.cat((shared, torch.randint(3, shape[4], (count, 2, answer), device=DEVICE)), -1)
        with torch.no_grad():
            reference = torch.cat([model(p.flatten(0, 1), answer).sum(-1) for p in pairs.split(at_once)])

        def once():
            loss_sum = 0.0
            for i in range(0, count, at_once):
                part = pairs[i:i + at_once]
                ratio = model(part.flatten(0, 1), answer).sum(-1) - reference[2 * i:2 * (i + len(part))]
                loss = -F.logsigmoid(0.1 * (ratio[0::2] - ratio[1::2])).sum() / count
                loss.backward()
                loss_sum += loss.detach()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return float(loss_sum)

        best, first = math.inf, None
        for _ in range(3):
            synchronize()
            start = time.perf_counter()
            loss = once()
            synchronize()
            best, first = min(best, time.perf_counter() - start), loss if first is None else first
        say(f"{name}: DPO step, {count} pairs {prompt} + {answer} | {answer}", seconds=best, tokens=2 * count * (prompt + answer), first_loss=first)


def main():
    section = sys.argv[1]
    say("PyTorch", version=torch.__version__)
    if section == "kernels":
        kernels()
    elif section == "134m":
        step("134 M", (64, 2, 4, 96, 200) if SMALL else (768, 12, 12, 2048, 32000), 20 if SMALL else 560, 6 if SMALL else 96, (1, 2) if SMALL else (1, 16), 4)
    elif section == "1b":
        step("1.3 B", (64, 2, 4, 96, 200) if SMALL else (2048, 24, 16, 5504, 32000), 20 if SMALL else 2048, 6 if SMALL else 128, (1, 2) if SMALL else (1, 8), 1)
    else:
        sys.exit(f"torch_peer.py has no section {section}: kernels, 134m, 1b")


if __name__ == "__main__":
    main()
