"""A Mask R-CNN on timm's XCiT, made of torchvision's operators, with mmdetection's names and losses: mean
cross-entropy, and L1 distances over the number of samples.

What is trained on is not drawn: of objects and of background the first are taken, as many as there may be.
"""

import dataclasses

import torch
import torch.nn.functional as F
from timm.models import xcit
from torch import nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, roi_align

STRIDES = [4, 8, 16, 32, 64]
RATIOS = [0.5, 1.0, 2.0]
ANCHOR_CODER, HEAD_CODER = BoxCoder((1.0,) * 4), BoxCoder((10.0, 10.0, 5.0, 5.0))


@dataclasses.dataclass
class Config:
    """The published numbers on an XCiT-S12/16."""

    classes: int = 80
    channels: int = 256
    hidden: int = 1024
    convolutions: int = 4
    width: int = 384
    depth: int = 12
    heads: int = 8
    mlp_ratio: float = 4.0
    blocks: tuple = (3, 5, 7, 11)
    scale: float = 8.0
    anchor_samples: int = 256
    region_samples: int = 512
    level_proposals: int = 2000
    proposals: int = 1000
    least_score: float = 0.05
    most_found: int = 100


class Backbone(xcit.Xcit):
    def __init__(self, config):
        super().__init__(
            img_size=64, patch_size=16, num_classes=0, embed_dim=config.width, depth=config.depth,
            num_heads=config.heads, mlp_ratio=config.mlp_ratio, cls_attn_layers=0, use_pos_embed=True, eta=1.0,
        )  # fmt: skip
        del self.norm, self.cls_token
        self.out_blocks = config.blocks
        c = config.width
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
        return [level(results[block]) for level, block in zip(levels, self.out_blocks)]


class Conv(nn.Module):
    """mmdetection's ConvModule, which puts `conv` into the names."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.conv = nn.Conv2d(*args, **kwargs)

    def forward(self, x):
        return self.conv(x)


class Neck(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config.channels
        self.lateral_convs = nn.ModuleList(Conv(config.width, c, 1) for _ in range(4))
        self.fpn_convs = nn.ModuleList(Conv(c, c, 3, padding=1) for _ in range(4))

    def forward(self, levels):
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, levels)]
        for i in [3, 2, 1]:
            size = laterals[i - 1].shape[-2:]
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=size, mode="nearest")
        pyramid = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        return pyramid + [F.max_pool2d(pyramid[-1], 1, stride=2)]


class RpnHead(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config.channels
        self.rpn_conv = nn.Conv2d(c, c, 3, padding=1)
        self.rpn_cls = nn.Conv2d(c, 3, 1)
        self.rpn_reg = nn.Conv2d(c, 12, 1)

    def forward(self, pyramid):
        logits, offsets = [], []
        for x in pyramid:
            x = self.rpn_conv(x).relu()
            b = len(x)
            logits.append(self.rpn_cls(x).permute(0, 2, 3, 1).reshape(b, -1))
            offsets.append(self.rpn_reg(x).permute(0, 2, 3, 1).reshape(b, -1, 4))
        return logits, offsets


class BboxHead(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden, k = config.hidden, config.classes
        self.shared_fcs = nn.ModuleList([nn.Linear(config.channels * 49, hidden), nn.Linear(hidden, hidden)])
        self.fc_cls = nn.Linear(hidden, k + 1)
        self.fc_reg = nn.Linear(hidden, 4 * k)

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.shared_fcs:
            x = layer(x).relu()
        return self.fc_cls(x), self.fc_reg(x)


class MaskHead(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config.channels
        self.convs = nn.ModuleList(Conv(c, c, 3, padding=1) for _ in range(config.convolutions))
        self.upsample = nn.ConvTranspose2d(c, c, 2, 2)
        self.conv_logits = nn.Conv2d(c, config.classes, 1)

    def forward(self, x):
        for conv in self.convs:
            x = conv(x).relu()
        return self.conv_logits(self.upsample(x).relu())


class RoiHead(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.bbox_head, self.mask_head = BboxHead(config), MaskHead(config)


class Detector(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.backbone, self.neck = Backbone(config), Neck(config)
        self.rpn_head, self.roi_head = RpnHead(config), RoiHead(config)


def anchors(pyramid, scale):
    levels, ratios = [], torch.tensor(RATIOS)
    for x, stride in zip(pyramid, STRIDES):
        h, w = x.shape[-2:]
        side = scale * stride
        half = torch.stack([side / ratios.sqrt(), side * ratios.sqrt()], dim=1) / 2
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


def sample(found, count, share):
    """The places of objects and of background that are trained on."""
    ours = (found >= 0).nonzero().squeeze(1)[: int(count * share)]
    return ours, (found == -1).nonzero().squeeze(1)[: count - len(ours)]


@torch.no_grad()
def propose(config, logits, offsets, levels, image, size):
    boxes, scores, groups = [], [], []
    for group, (logit, offset, anchor) in enumerate(zip(logits, offsets, levels)):
        score, order = logit[image].sort(descending=True, stable=True)
        order = order[: config.level_proposals]
        box = ANCHOR_CODER.decode_single(offset[image][order], anchor[order])
        boxes.append(clip_boxes_to_image(box, size))
        scores.append(score[: len(order)])
        groups.append(torch.full((len(order),), group))
    boxes, scores, groups = torch.cat(boxes), torch.cat(scores), torch.cat(groups)
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, scores, groups = boxes[real], scores[real], groups[real]
    return boxes[batched_nms(boxes, scores, groups, 0.7)[: config.proposals]]


def features(pyramid, rois, size):
    """Each region of (R, 5) from its level."""
    w, h = rois[:, 3] - rois[:, 1], rois[:, 4] - rois[:, 2]
    level = ((w * h).sqrt() / 56 + 1e-6).log2().floor().clamp(0, 3)
    result = pyramid[0].new_zeros(len(rois), pyramid[0].shape[1], size, size)
    for i, (x, stride) in enumerate(zip(pyramid[:4], STRIDES)):
        mine = (level == i).nonzero().squeeze(1)
        if len(mine):
            part = roi_align(x, rois[mine], size, 1 / stride, 0, aligned=True)
            result = result.index_put((mine,), part)
    return result


def with_image(boxes, image):
    return torch.cat([torch.full((len(boxes), 1), float(image)), boxes], dim=1)


def losses(model, images, sizes, objects, classes, masks):
    """The five losses of a batch; each image has boxes, classes and masks of its objects."""
    config = model.config
    pyramid = model.neck(model.backbone(images))
    logits, offsets = model.rpn_head(pyramid)
    levels = anchors(pyramid, config.scale)
    all_anchors = torch.cat(levels)
    anchor_class, anchor_box, samples = 0.0, 0.0, 0
    rois, labels, targets, pixels = [], [], [], []
    for i, boxes in enumerate(objects):
        found = assign(all_anchors, boxes, 0.7, 0.3, 0.3)
        ours, background = sample(found, config.anchor_samples, 0.5)
        kept = torch.cat([ours, background])
        logit, offset = torch.cat(logits, 1)[i], torch.cat(offsets, 1)[i]
        target = torch.cat([torch.ones(len(ours)), torch.zeros(len(background))])
        anchor_class = anchor_class + F.binary_cross_entropy_with_logits(logit[kept], target, reduction="sum")
        if len(ours):
            target = ANCHOR_CODER.encode_single(boxes[found[ours]], all_anchors[ours])
            anchor_box = anchor_box + F.l1_loss(offset[ours], target, reduction="sum")
        samples += len(kept)

        proposals = propose(config, logits, offsets, levels, i, sizes[i])
        found = torch.cat([torch.arange(len(boxes)), assign(proposals, boxes, 0.5, 0.5, 0.5)])
        proposals = torch.cat([boxes, proposals])
        order = torch.cat(sample(found, config.region_samples, 0.25))
        rois.append(with_image(proposals[order], i))
        for place in order:
            object = found[place]
            if object < 0:
                labels.append(config.classes)
                targets.append(None)
                continue
            labels.append(int(classes[i][object]))
            targets.append(HEAD_CODER.encode_single(boxes[object][None], proposals[place][None])[0])
            roi = with_image(proposals[place][None], 0)
            mask = roi_align(masks[i][object][None, None], roi, 28, 1.0, 0, aligned=True)
            pixels.append((mask[0, 0] >= 0.5).to(images.dtype))
    rois = torch.cat(rois)
    logits, offsets = model.roi_head.bbox_head(features(pyramid, rois, 7))
    class_loss = F.cross_entropy(logits, torch.tensor(labels))
    ours = [i for i, label in enumerate(labels) if label < config.classes]
    own = torch.tensor([labels[i] for i in ours])
    offsets = offsets.reshape(len(rois), config.classes, 4)[ours, own]
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
def detect(model, images, sizes):
    config = model.config
    pyramid = model.neck(model.backbone(images))
    logits, offsets = model.rpn_head(pyramid)
    levels = anchors(pyramid, config.scale)
    for i in range(len(images)):
        proposals = propose(config, logits, offsets, levels, i, sizes[i])
        scores, deltas = model.roi_head.bbox_head(features(pyramid, with_image(proposals, i), 7))
        scores = scores.softmax(1)[:, : config.classes]
        boxes = HEAD_CODER.decode(deltas, [proposals])
        boxes = clip_boxes_to_image(boxes, sizes[i])
        place, label = (scores > config.least_score).nonzero(as_tuple=True)
        boxes, score = boxes[place, label], scores[place, label]
        kept = batched_nms(boxes, score, label, 0.5)[: config.most_found]
        boxes, score, label = boxes[kept], score[kept], label[kept]
        rois = with_image(boxes, i)
        grid = model.roi_head.mask_head(features(pyramid, rois, 14)).sigmoid()
        grid = grid[torch.arange(len(kept)), label]
        yield {"boxes": boxes, "scores": score, "classes": label, "grids": grid, "pasted": paste(grid, boxes, sizes[i])}


def paste(grid, boxes, size):
    """mmdetection's _do_paste_mask."""
    y, x = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    y = (y - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    x = (x - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    n, h, w = len(boxes), size[0], size[1]
    at = torch.stack([x[:, None].expand(n, h, w), y[:, :, None].expand(n, h, w)], dim=3)
    return F.grid_sample(grid[:, None], at, align_corners=False)[:, 0] >= 0.5
