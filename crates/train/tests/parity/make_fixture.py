"""Writes adamw.safetensors: ten steps of torch.optim.AdamW on a two-layer MLP, in f32 and in f64.

Parameter groups with their own decay and rate, clip_grad_norm_ (active on some steps, idle on
others) and a warm-up cosine by LambdaLR. The settings stand in the metadata in the form of
`FitConfig`, so that the test copies no number by hand.

    python make_fixture.py     # needs torch and safetensors
"""

import json
import math
import platform
from pathlib import Path

import torch
from safetensors.torch import save_file

EPOCHS, BATCHES, BATCH = 2, 5, 8
TOKENS, WIDTH, HIDDEN, OUT = 4, 6, 16, 3
PEAK, WARMUP, FLOOR = 1e-2, 0.3, 0.1
DECAY, TABLE_RATE, CLIP = 0.1, 3.0, 2.2
ADAMW = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}


def factor(step):
    """The rate of a step as a part of the peak: the formula of `Schedule`."""
    total = EPOCHS * BATCHES
    warmup = round(WARMUP * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / (total - warmup)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress))


def train(start, x, y):
    """Losses, gradient norms, rates and final parameters."""
    p = {name: value.clone().requires_grad_() for name, value in start.items()}
    groups = [
        {"params": [p["fc1.weight"], p["fc2.weight"]], "weight_decay": DECAY, "lr": PEAK},
        {"params": [p["fc1.bias"], p["fc2.bias"]], "weight_decay": 0.0, "lr": PEAK},
        {"params": [p["pos_embed"]], "weight_decay": 0.0, "lr": PEAK * TABLE_RATE},
    ]
    optimizer = torch.optim.AdamW(
        groups, betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["eps"], foreach=False
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses, norms, rates = [], [], []
    for step in range(EPOCHS * BATCHES):
        optimizer.zero_grad()
        tokens = x[step % BATCHES] + p["pos_embed"]
        hidden = torch.tanh(tokens @ p["fc1.weight"].T + p["fc1.bias"])
        out = hidden @ p["fc2.weight"].T + p["fc2.bias"]
        loss = ((out - y[step % BATCHES]) ** 2).mean()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(p.values(), CLIP).item())
        rates.append(schedule.get_last_lr()[0])
        losses.append(loss.item())
        optimizer.step()
        schedule.step()
    return losses, norms, rates, {name: value.detach() for name, value in p.items()}


def main():
    torch.manual_seed(0)
    shapes = {
        "pos_embed": (1, TOKENS, WIDTH),
        "fc1.weight": (HIDDEN, WIDTH),
        "fc1.bias": (HIDDEN,),
        "fc2.weight": (OUT, HIDDEN),
        "fc2.bias": (OUT,),
    }
    start = {name: 0.4 * torch.randn(shape) for name, shape in shapes.items()}
    x = torch.randn(BATCHES, BATCH, TOKENS, WIDTH)
    y = torch.randn(BATCHES, BATCH, TOKENS, OUT)
    tensors = {"x": x, "y": y} | {f"start.{name}": value for name, value in start.items()}
    for label, dtype in [("f32", torch.float32), ("f64", torch.float64)]:
        cast = {name: value.to(dtype) for name, value in start.items()}
        losses, norms, rates, final = train(cast, x.to(dtype), y.to(dtype))
        assert min(norms) < CLIP < max(norms), f"clipping must act on some steps only: {norms}"
        for name, values in [("losses", losses), ("norms", norms), ("rates", rates)]:
            tensors[f"{label}.{name}"] = torch.tensor(values, dtype=torch.float64)
        tensors |= {f"{label}.final.{name}": value for name, value in final.items()}
    config = {
        "length": {"epochs": EPOCHS},
        "accumulate": 1,
        "ramp": 0.0,
        "schedule": {"peak": PEAK, "shape": {"cosine": {"warmup": WARMUP, "floor": FLOOR}}},
        "adamw": ADAMW,
        "groups": {"weight_decay": DECAY, "table_rate": TABLE_RATE, "tables": ["pos_embed"]},
        "clip": CLIP,
        "ema": None,
        "evaluate_every": 1,
        "checkpoint_every": 1,
        "seed": 0,
    }
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    # One key: safetensors writes several in random order, and a rerun should give the same file.
    metadata = {"fixture": json.dumps({"config": config} | versions)}
    save_file(tensors, Path(__file__).with_name("adamw.safetensors"), metadata)
    print("norms", [round(norm, 3) for norm in norms])


if __name__ == "__main__":
    main()
