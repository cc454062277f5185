"""Writes muon.safetensors: ten steps of torch.optim.Muon on two matrices, in f64, by every scale and with and without
Nesterov's form.

torch orthogonalises in bf16, with coefficients that do not converge. Here it is given f64 for bf16 and the
Newton-Schulz coefficients, whose iteration ends at U V^T to rounding: all else is torch's own code. The gradient of a
step is recorded noise plus PULL times the parameter, so that a difference grows on.

    python make_muon_fixture.py     # needs torch from 2.9 on, and safetensors
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

STEPS, PULL, MOMENTUM = 10, 0.3, 0.9
SHAPES = {"tall": (7, 4), "wide": (3, 6)}
DECAY = {"tall": 0.1, "wide": 0.0}
RATES = [0.05 / (step + 1) for step in range(STEPS)]
SCALES = {"original": "original", "match-adamw": "match_rms_adamw"}

torch.bfloat16 = torch.float64
torch.manual_seed(0)
start = {name: torch.randn(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
noise = {name: torch.randn((STEPS, *shape), dtype=torch.float64) for name, shape in SHAPES.items()}
tensors = {f"start.{name}": value for name, value in start.items()}
tensors |= {f"noise.{name}": value for name, value in noise.items()}
for ours, theirs in SCALES.items():
    for nesterov in [True, False]:
        parameters = {name: value.clone().requires_grad_() for name, value in start.items()}
        optimizer = torch.optim.Muon(
            [{"params": [p], "weight_decay": DECAY[name]} for name, p in parameters.items()],
            momentum=MOMENTUM,
            nesterov=nesterov,
            adjust_lr_fn=theirs,
            ns_coefficients=(15 / 8, -10 / 8, 3 / 8),
            ns_steps=60,
        )
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = RATES[step]
            for name, p in parameters.items():
                p.grad = noise[name][step] + PULL * p.detach()
            optimizer.step()
        label = f"{ours}.{'nesterov' if nesterov else 'plain'}"
        tensors |= {f"{label}.{name}": p.detach() for name, p in parameters.items()}

settings = {"pull": PULL, "momentum": MOMENTUM, "decay": DECAY, "rates": RATES, "torch": torch.__version__}
path = Path(__file__).with_name("muon.safetensors")
save_file(tensors, path, {"fixture": json.dumps(settings)})
path.chmod(0o644)
print(path.stat().st_size)
