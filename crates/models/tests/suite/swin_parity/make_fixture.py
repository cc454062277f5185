"""Writes swin.safetensors: a tiny timm Swin in float64 with its logits, loss and every gradient,
plain and with conditioned tokens.

8 x 8 tokens in shifted windows of 4 x 4, then 4 x 4 tokens in one window without shift.

    pip install torch timm safetensors && python make_fixture.py
"""

import pathlib
import sys

import torch
from timm.models.swin_transformer import SwinTransformer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from image_parity import family, write

torch.manual_seed(0)


def build():
    return SwinTransformer(
        img_size=16, patch_size=2, num_classes=5, embed_dim=6, depths=(2, 2), num_heads=(2, 3),
        window_size=4, mlp_ratio=2.0, drop_path_rate=0.0,
    )  # fmt: skip


model = build()
shifts = [[block.shift_size for block in stage.blocks] for stage in model.layers]
assert shifts == [[(0, 0), (2, 2)], [(0, 0), (0, 0)]]

path = pathlib.Path(__file__).with_name("swin.safetensors")
_, tensors = family(build, lambda model: (model.patch_embed, "NHWC"), side=16)
write(path, tensors)
