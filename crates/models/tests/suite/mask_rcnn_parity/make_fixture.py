"""Writes mask_rcnn.safetensors: the tiny Mask R-CNN of detector.py in float64, with its five losses, every gradient and
running statistic of a training step, and what it finds in an evaluation.

Every anchor and proposal that is an object or background is trained on. Two images of several sizes fill one batch.

    pip install torch torchvision timm safetensors && python make_fixture.py
"""

import math
import pathlib
import sys

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import xcit_f64  # noqa: F401, timm's positions in float64
from detector import Config, Detector, detect, losses

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)

CONFIG = Config(
    classes=3, channels=4, hidden=6, convolutions=1, width=8, depth=4, heads=2, mlp_ratio=2.0, blocks=(0, 1, 2, 3),
    scale=4.0, anchor_samples=100_000, region_samples=100_000, level_proposals=40, proposals=50, least_score=0.2,
    most_found=6,
)  # fmt: skip
SIZES = [(64, 96), (50, 70)]


model = Detector(CONFIG)
for name, parameter in model.named_parameters():
    torch.nn.init.normal_(parameter, std=1 / math.sqrt(parameter[0].numel()) if parameter.dim() > 1 else 0.2)
    if name.endswith("norm.weight") or ".bn" in name and name.endswith("weight"):
        parameter.data += 1.0
# Boxes near the anchors.
for layer in [model.roi_head.bbox_head.fc_reg, model.rpn_head.rpn_reg]:
    layer.weight.data *= 0.2
# Masks with edges.
weight = model.roi_head.mask_head.conv_logits.weight.data
weight -= weight.mean(dim=1, keepdim=True)
weight *= 20
model.roi_head.mask_head.conv_logits.bias.data += 4
model.train()

pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
images = pixels / 256
images[1, :, SIZES[1][0] :] = 0.0
images[1, :, :, SIZES[1][1] :] = 0.0
objects = [
    torch.tensor([[4.0, 6.0, 30.0, 25.0], [40.5, 10.25, 90.0, 60.0], [2.0, 40.0, 18.0, 58.0]]),
    torch.tensor([[10.0, 8.0, 44.0, 41.5]]),
]
classes = [torch.tensor([0, 2, 1]), torch.tensor([1])]
masks = []
for i, boxes in enumerate(objects):
    y, x = torch.meshgrid(torch.arange(SIZES[i][0]) + 0.5, torch.arange(SIZES[i][1]) + 0.5, indexing="ij")
    rows = []
    for x1, y1, x2, y2 in boxes.tolist():
        inside = ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2
        rows.append((inside < 0.25).double())
    masks.append(torch.stack(rows))

tensors = {f"parameter/{name}": p.detach().clone() for name, p in model.named_parameters()}
tensors["pixels"] = pixels
for i in range(2):
    tensors[f"{i}/boxes"], tensors[f"{i}/classes"], tensors[f"{i}/masks"] = objects[i], classes[i], masks[i].to(torch.uint8)
found = losses(model, images, SIZES, objects, classes, masks)
total = sum(found.values())
total.backward()
for name, loss in found.items():
    tensors[f"loss/{name}"] = loss.detach()
for name, parameter in model.named_parameters():
    tensors[f"gradient/{name}"] = parameter.grad
for name, buffer in model.named_buffers():
    if "running" in name:
        tensors[f"buffer/{name}"] = buffer.clone()
model.eval()
for i, record in enumerate(detect(model, images, SIZES)):
    print("found", record["scores"].tolist(), record["pasted"].sum((1, 2)).tolist())
    for name, value in record.items():
        if name != "pasted" or i == 1:
            tensors[f"found/{i}/{name}"] = value.to(torch.uint8) if value.dtype == torch.bool else value
# Small enough to be kept: gradients are compared to eight digits.
small = {k: v.float() if k.startswith(("gradient/", "found/")) and v.is_floating_point() else v for k, v in tensors.items()}
small = {k: v.to(torch.uint8) if k.endswith("classes") else v.contiguous() for k, v in small.items()}
save_file(small, pathlib.Path(__file__).with_name("mask_rcnn.safetensors"))
print({name: float(loss.detach()) for name, loss in found.items()})
