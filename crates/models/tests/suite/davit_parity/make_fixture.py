"""Writes davit.safetensors: a tiny timm DaViT in float64 with its logits, loss and every gradient,
plain and with conditioned tokens.

8 x 8 tokens in windows of 4 x 4, then 4 x 4 tokens in one window.

    pip install torch timm safetensors && python make_fixture.py
"""

import pathlib
import sys

import torch
from timm.models.davit import DaVit

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from image_parity import family, write

torch.manual_seed(0)


def build():
    return DaVit(
        num_classes=5, embed_dims=(6, 12), depths=(1, 1), num_heads=(2, 3), window_size=4, mlp_ratio=2.0,
    )  # fmt: skip


path = pathlib.Path(__file__).with_name("davit.safetensors")
_, tensors = family(build, lambda model: (model.stem, "NCHW"), side=32)
write(path, tensors)
