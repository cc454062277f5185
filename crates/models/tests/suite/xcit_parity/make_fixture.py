"""Writes xcit.safetensors: a tiny timm XCiT in float64 with its logits, loss, every gradient and the
running statistics, plain and with conditioned tokens; and plain with `tokens_norm` off.

3 x 3 patches of 8 pixels: three convolutions (timm has 8 and 16 pixels only), and more tokens in the
batch than channels, so that the Gram matrix of the pooled arm has full rank.

    pip install torch timm safetensors && python make_fixture.py
"""

import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from image_parity import family, step, write
from xcit_f64 import xcit

torch.manual_seed(0)


def build(tokens_norm=True):
    return xcit.Xcit(
        img_size=24, patch_size=8, num_classes=5, embed_dim=8, depth=2, num_heads=2, mlp_ratio=2.0,
        cls_attn_layers=2, use_pos_embed=True, tokens_norm=tokens_norm, eta=1.0,
    )  # fmt: skip


reference, tensors = family(build, lambda model: (model.pos_drop, "NLC"), side=24)
model = build(tokens_norm=False)
model.load_state_dict(reference.state_dict())
path = pathlib.Path(__file__).with_name("xcit.safetensors")
write(path, tensors | step("class-norm", model, tensors))
