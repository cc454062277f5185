"""Writes mask_rcnn.safetensors: a tiny Mask R-CNN on timm's XCiT in float64, made of torchvision's operators, with its
five losses, every gradient and running statistic of a training step, and what it finds in an evaluation.

Every anchor and proposal that is an object or background is trained on, so that nothing is drawn. Two images of
several sizes fill one batch. The losses are mmdetection's: mean cross-entropy, and L1 distances over the number of
samples.

    pip install torch torchvision timm safetensors && python make_fixture.py
"""

import math
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, roi_align

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from xcit_f64 import xcit

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)

CLASSES, CHANNELS, HIDDEN, WIDTH = 3, 4, 6, 8
STRIDES = [4, 8, 16, 32, 64]
SCALE, RATIOS = 4.0, torch.tensor([0.5, 1.0, 2.0])
LEVEL_PROPOSALS, PROPOSALS = 40, 50
LEAST_SCORE, MOST_FOUND = 0.2, 6
SIZES = [(64, 96), (50, 70)]


class Backbone(xcit.Xcit):
    def __init__(self):
        super().__init__(
            img_size=64, patch_size=16, num_classes=0, embed_dim=WIDTH, depth=4, num_heads=2, mlp_ratio=2.0,
            cls_attn_layers=0, use_pos_embed=True, eta=1.0,
        )  # fmt: skip
        del self.norm, self.cls_token
        c = WIDTH
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(c, c, 2, 2), nn.BatchNorm2d(c), nn.GELU(), nn.ConvTranspose2d(c, c, 2, 2)
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(c, c, 2, 2))
        self.fpn3 = nn.Identity()
        self.fpn4 = nn.MaxPool2d(2, 2)

    def forward(self, images):
        x, (h, w) = self.patch_embed(images)
        b, _, c = x.shape
        x = x + self.pos_embed(b, h, w).reshape(b, c, -1).permute(0, 2, 1)
        results = []
        for block in self.blocks:
            x = block(x, h, w)
            results.append(x.permute(0, 2, 1).reshape(b, c, h, w))
        levels = [self.fpn1, self.fpn2, self.fpn3, self.fpn4]
        return [level(x) for level, x in zip(levels, results)]


class Conv(nn.Module):
    """mmdetection's ConvModule, which puts `conv` into the names."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.conv = nn.Conv2d(*args, **kwargs)

    def forward(self, x):
        return self.conv(x)


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.lateral_convs = nn.ModuleList(Conv(WIDTH, CHANNELS, 1) for _ in range(4))
        self.fpn_convs = nn.ModuleList(Conv(CHANNELS, CHANNELS, 3, padding=1) for _ in range(4))

    def forward(self, levels):
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, levels)]
        for i in [3, 2, 1]:
            size = laterals[i - 1].shape[-2:]
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=size, mode="nearest")
        pyramid = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        return pyramid + [F.max_pool2d(pyramid[-1], 1, stride=2)]


class RpnHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.rpn_conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.rpn_cls = nn.Conv2d(CHANNELS, 3, 1)
        self.rpn_reg = nn.Conv2d(CHANNELS, 12, 1)

    def forward(self, pyramid):
        logits, offsets = [], []
        for x in pyramid:
            x = self.rpn_conv(x).relu()
            b = len(x)
            logits.append(self.rpn_cls(x).permute(0, 2, 3, 1).reshape(b, -1))
            offsets.append(self.rpn_reg(x).permute(0, 2, 3, 1).reshape(b, -1, 4))
        return logits, offsets


class BboxHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared_fcs = nn.ModuleList([nn.Linear(CHANNELS * 49, HIDDEN), nn.Linear(HIDDEN, HIDDEN)])
        self.fc_cls = nn.Linear(HIDDEN, CLASSES + 1)
        self.fc_reg = nn.Linear(HIDDEN, 4 * CLASSES)

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.shared_fcs:
            x = layer(x).relu()
        return self.fc_cls(x), self.fc_reg(x)


class MaskHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([Conv(CHANNELS, CHANNELS, 3, padding=1)])
        self.upsample = nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, 2)
        self.conv_logits = nn.Conv2d(CHANNELS, CLASSES, 1)

    def forward(self, x):
        for conv in self.convs:
            x = conv(x).relu()
        return self.conv_logits(self.upsample(x).relu())


class RoiHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.bbox_head, self.mask_head = BboxHead(), MaskHead()


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.neck, self.rpn_head, self.roi_head = Backbone(), Neck(), RpnHead(), RoiHead()


ANCHOR_CODER, HEAD_CODER = BoxCoder((1.0,) * 4), BoxCoder((10.0, 10.0, 5.0, 5.0))


def anchors(pyramid):
    levels = []
    for x, stride in zip(pyramid, STRIDES):
        h, w = x.shape[-2:]
        side = SCALE * stride
        half = torch.stack([side / RATIOS.sqrt(), side * RATIOS.sqrt()], dim=1) / 2
        base = torch.cat([-half, half], dim=1)
        y, x = torch.meshgrid(torch.arange(h) * stride, torch.arange(w) * stride, indexing="ij")
        shift = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
        levels.append((base + shift).reshape(-1, 4))
    return levels


def assign(boxes, objects, high, low, best):
    """mmdetection's MaxIoUAssigner: the object of each box, -1 for background, -2 for neither."""
    found = torch.full((len(boxes),), -2)
    if len(objects) == 0:
        return found.fill_(-1)
    overlaps = box_iou(objects, boxes)
    most, place = overlaps.max(dim=0)
    found[most < low] = -1
    found[most >= high] = place[most >= high]
    for i, row in enumerate(overlaps):
        if row.max() >= best:
            found[row == row.max()] = i
    return found


@torch.no_grad()
def propose(logits, offsets, levels, image):
    boxes, scores, groups = [], [], []
    for group, (logit, offset, anchor) in enumerate(zip(logits, offsets, levels)):
        score, order = logit[image].sort(descending=True, stable=True)
        order = order[:LEVEL_PROPOSALS]
        box = ANCHOR_CODER.decode_single(offset[image][order], anchor[order])
        boxes.append(clip_boxes_to_image(box, SIZES[image]))
        scores.append(score[: len(order)])
        groups.append(torch.full((len(order),), group))
    boxes, scores, groups = torch.cat(boxes), torch.cat(scores), torch.cat(groups)
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, scores, groups = boxes[real], scores[real], groups[real]
    return boxes[batched_nms(boxes, scores, groups, 0.7)[:PROPOSALS]]


def features(pyramid, rois, size):
    """Each region of (R, 5) from its level."""
    w, h = rois[:, 3] - rois[:, 1], rois[:, 4] - rois[:, 2]
    level = ((w * h).sqrt() / 56 + 1e-6).log2().floor().clamp(0, 3)
    result = pyramid[0].new_zeros(len(rois), CHANNELS, size, size)
    for i, (x, stride) in enumerate(zip(pyramid[:4], STRIDES)):
        mine = (level == i).nonzero().squeeze(1)
        if len(mine):
            part = roi_align(x, rois[mine], size, 1 / stride, 0, aligned=True)
            result = result.index_put((mine,), part)
    return result


def with_image(boxes, image):
    return torch.cat([torch.full((len(boxes), 1), float(image)), boxes], dim=1)


def losses(model, images, objects, classes, masks):
    pyramid = model.neck(model.backbone(images))
    logits, offsets = model.rpn_head(pyramid)
    levels = anchors(pyramid)
    anchor_class, anchor_box, samples = 0.0, 0.0, 0
    rois, labels, targets, pixels = [], [], [], []
    for i, boxes in enumerate(objects):
        found = assign(torch.cat(levels), boxes, 0.7, 0.3, 0.3)
        kept, ours = found > -2, found >= 0
        logit, offset = torch.cat(logits, 1)[i], torch.cat(offsets, 1)[i]
        anchor_class = anchor_class + F.binary_cross_entropy_with_logits(
            logit[kept], ours[kept].double(), reduction="sum"
        )
        if ours.any():
            target = ANCHOR_CODER.encode_single(boxes[found[ours]], torch.cat(levels)[ours])
            anchor_box = anchor_box + F.l1_loss(offset[ours], target, reduction="sum")
        samples += kept.sum()

        proposals = propose(logits, offsets, levels, i)
        found = torch.cat([torch.arange(len(boxes)), assign(proposals, boxes, 0.5, 0.5, 0.5)])
        proposals = torch.cat([boxes, proposals])
        order = torch.cat([(found >= 0).nonzero(), (found == -1).nonzero()]).squeeze(1)
        rois.append(with_image(proposals[order], i))
        for place in order:
            object = found[place]
            if object < 0:
                labels.append(CLASSES)
                targets.append(None)
                continue
            labels.append(int(classes[i][object]))
            targets.append(HEAD_CODER.encode_single(boxes[object][None], proposals[place][None])[0])
            roi = with_image(proposals[place][None], 0)
            mask = roi_align(masks[i][object][None, None], roi, 28, 1.0, 0, aligned=True)
            pixels.append((mask[0, 0] >= 0.5).double())
    rois = torch.cat(rois)
    logits, offsets = model.roi_head.bbox_head(features(pyramid, rois, 7))
    class_loss = F.cross_entropy(logits, torch.tensor(labels))
    ours = [i for i, label in enumerate(labels) if label < CLASSES]
    print(f"{samples} anchors, {len(rois)} regions, {len(ours)} of them objects")
    own = torch.tensor([labels[i] for i in ours])
    offsets = offsets.reshape(len(rois), CLASSES, 4)[ours, own]
    target = torch.stack([targets[i] for i in ours])
    corners = F.l1_loss(offsets, target, reduction="sum") / len(rois)
    logits = model.roi_head.mask_head(features(pyramid, rois[ours], 14))[torch.arange(len(ours)), own]
    mask = F.binary_cross_entropy_with_logits(logits, torch.stack(pixels))
    return {
        "anchor_class": anchor_class / samples,
        "anchor_box": anchor_box / samples,
        "class": class_loss,
        "corners": corners,
        "mask": mask,
    }


@torch.no_grad()
def detect(model, images):
    pyramid = model.neck(model.backbone(images))
    logits, offsets = model.rpn_head(pyramid)
    levels = anchors(pyramid)
    for i in range(len(images)):
        proposals = propose(logits, offsets, levels, i)
        scores, deltas = model.roi_head.bbox_head(features(pyramid, with_image(proposals, i), 7))
        scores = scores.softmax(1)[:, :CLASSES]
        boxes = HEAD_CODER.decode(deltas, [proposals])
        boxes = clip_boxes_to_image(boxes, SIZES[i])
        place, label = (scores > LEAST_SCORE).nonzero(as_tuple=True)
        boxes, score = boxes[place, label], scores[place, label]
        kept = batched_nms(boxes, score, label, 0.5)[:MOST_FOUND]
        boxes, score, label = boxes[kept], score[kept], label[kept]
        rois = with_image(boxes, i)
        grid = model.roi_head.mask_head(features(pyramid, rois, 14)).sigmoid()
        grid = grid[torch.arange(len(kept)), label]
        yield {"boxes": boxes, "scores": score, "classes": label, "grids": grid, "pasted": paste(grid, boxes, SIZES[i])}


def paste(grid, boxes, size):
    """mmdetection's _do_paste_mask."""
    y, x = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    y = (y - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    x = (x - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    n, h, w = len(boxes), size[0], size[1]
    at = torch.stack([x[:, None].expand(n, h, w), y[:, :, None].expand(n, h, w)], dim=3)
    return F.grid_sample(grid[:, None], at, align_corners=False)[:, 0] >= 0.5


model = Detector()
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
found = losses(model, images, objects, classes, masks)
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
for i, record in enumerate(detect(model, images)):
    print("found", record["scores"].tolist(), record["pasted"].sum((1, 2)).tolist())
    for name, value in record.items():
        if name != "pasted" or i == 1:
            tensors[f"found/{i}/{name}"] = value.to(torch.uint8) if value.dtype == torch.bool else value
# Small enough to be kept: gradients are compared to eight digits.
small = {k: v.float() if k.startswith(("gradient/", "found/")) and v.is_floating_point() else v for k, v in tensors.items()}
small = {k: v.to(torch.uint8) if k.endswith("classes") else v.contiguous() for k, v in small.items()}
save_file(small, pathlib.Path(__file__).with_name("mask_rcnn.safetensors"))
print({name: float(loss.detach()) for name, loss in found.items()})
