"""Writes operators.safetensors: torchvision's anchors, box coding and suppression of random boxes, in float64.

torchvision rounds the corners of an anchor at the first place to pixels. The losses are those that its detector takes
from torch, of logits and offsets drawn here.

    pip install torch torchvision safetensors && python make_fixture.py
"""

import math
import pathlib

import torch
from safetensors.torch import save_file
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
tensors = {}

# Levels of 2 x 4 and 1 x 2 places, of strides 8 and 16, in an image of 16 x 32.
generator = AnchorGenerator(sizes=((64,), (128,)), aspect_ratios=((0.5, 1.0, 2.0),) * 2)
image = ImageList(torch.zeros(1, 3, 16, 32), [(16, 32)])
features = [torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 1, 2)]
tensors["anchors"] = generator(image, features)[0]


def boxes(count):
    corner, side = 300 * torch.rand(count, 2), 5 + 150 * torch.rand(count, 2)
    return torch.cat([corner, corner + side], 1)


tensors["from"], tensors["to"] = boxes(40), boxes(40)
offsets = torch.randn(40, 4)
for name, weights in {"anchor": (1.0, 1.0, 1.0, 1.0), "head": (10.0, 10.0, 5.0, 5.0)}.items():
    coder = BoxCoder(weights)
    tensors[f"{name}.encoded"] = coder.encode_single(tensors["to"], tensors["from"])
    # An offset beyond the largest growth of a side, ln(1000 / 16) times the weight, is cut there.
    grown = offsets.clone()
    grown[0, 2] = 1.5 * math.log(1000 / 16) * weights[2]
    tensors[f"{name}.offsets"] = grown
    tensors[f"{name}.decoded"] = coder.decode_single(grown, tensors["from"])

# Crowded: each box near one of ten, in three groups; scores are distinct.
near = boxes(10)[torch.randint(10, (120,))] + 12 * torch.randn(120, 4)
tensors["crowd"] = torch.cat([torch.minimum(near[:, :2], near[:, 2:] - 1), near[:, 2:]], 1)
tensors["scores"], tensors["groups"] = torch.rand(120), torch.randint(3, (120,))
for threshold in [0.3, 0.5, 0.7]:
    kept = batched_nms(tensors["crowd"], tensors["scores"], tensors["groups"], threshold)
    tensors[f"kept.{threshold}"] = kept

# RPN and head losses as torchvision has them, the distances of mmdetection (L1, beta of 0).
logits, truth = 3 * torch.randn(50, requires_grad=True), (torch.rand(50) > 0.7).double()
tensors["logits"], tensors["truth"] = logits.detach(), truth
logits = tensors["logits"].clone().requires_grad_()
loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
loss.backward()
tensors["objectness"], tensors["objectness.gradient"] = loss.detach().reshape(1), logits.grad
found, wanted = torch.randn(20, 4, requires_grad=True), torch.randn(20, 4)
loss = torch.nn.functional.smooth_l1_loss(found, wanted, beta=0.0, reduction="sum") / 20
loss.backward()
tensors["found"], tensors["wanted"] = found.detach(), wanted
tensors["distance"], tensors["distance.gradient"] = loss.detach().reshape(1), found.grad

path = pathlib.Path(__file__).with_name("operators.safetensors")
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
print(path, path.stat().st_size, {name: len(t) for name, t in tensors.items() if name.startswith("kept")})
