#!/usr/bin/env python3
"""The mean loss of a text under a GPT-2 folder by transformers, beside that of `eval`.

    scripts/check_eval.py MODEL TEXT [WINDOW STRIDE]

Needs torch and transformers, and a release build of table5-tinystories. Exit 1 if the two differ by more
than 1e-4 nats.
"""

import pathlib
import subprocess
import sys

import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

folder, path = sys.argv[1:3]
model = GPT2LMHeadModel.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
text = pathlib.Path(path).read_text(encoding="utf-8")
ids = torch.tensor([tokenizer.encode(text)])
window = int(sys.argv[3]) if len(sys.argv) > 3 else model.config.n_positions
stride = int(sys.argv[4]) if len(sys.argv) > 4 else window // 2

total, scored = 0.0, 1
with torch.no_grad():
    for start in range(0, ids.size(1), stride):
        end = min(start + window, ids.size(1))
        labels = ids[:, start:end].clone()
        labels[:, : scored - start] = -100
        count = end - scored
        if count:
            total += count * model(ids[:, start:end], labels=labels).loss.item()
        scored = end
        if end == ids.size(1):
            break
theirs = total / (ids.size(1) - 1)

binary = pathlib.Path(__file__).resolve().parent.parent / "target/release/table5-tinystories"
command = [binary, "eval", "--model", folder, "--text", path, "--window", str(window), "--stride", str(stride)]
line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
ours = float(line.split()[0])
print(f"transformers {theirs:.6f}, ours {ours:.6f}, difference {abs(ours - theirs):.1e} nats")
sys.exit(abs(ours - theirs) > 1e-4)
