"""Writes vit.safetensors and deit.safetensors: a tiny timm ViT and a tiny distilled DeiT in float64
with logits, loss and every gradient, plain and with conditioned tokens (C detached).

DeiT in training has two heads, ARM/logits and ARM/logits_dist, and as loss the mean of their two
losses; eval/logits is the mean of both heads.

    pip install torch timm safetensors && python make_fixture.py
"""

import pathlib
import sys

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from image_parity import NormMatched, PerSequence, PooledCurrent, Standardised, record, start, step, write

torch.manual_seed(0)

ARMS = {
    "none": (None, None),
    "per-sequence": (PerSequence(1.0), "after"),
    "per-sequence-before": (PerSequence(0.3), "before"),
    "norm-matched": (NormMatched(1.0), "after"),
    "pooled": (PooledCurrent(0.3), "after"),
    "standardised": (Standardised(), "after"),
}


def build(family=VisionTransformer):
    return family(
        img_size=16, patch_size=4, in_chans=1, num_classes=5, embed_dim=8, depth=2, num_heads=2,
        mlp_ratio=2.0,
    )  # fmt: skip


def perturbed(model):
    """Away from zeros and ones, so that every gradient is exercised."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def arm(reference, method, place):
    """A copy of `reference` with conditioned tokens."""
    model = build(type(reference))
    model.load_state_dict(reference.state_dict())
    if place == "after":
        model.norm_pre = method
    if place == "before":
        model.patch_embed.register_forward_hook(lambda _m, _i, out: method(out))
    return model


folder = pathlib.Path(__file__).parent
reference = perturbed(build())
images, targets = torch.randn(3, 1, 16, 16), torch.softmax(torch.randn(3, 5), dim=1)
batch = {"images": images, "targets": targets}
tensors = start(reference, batch)
for name, (method, place) in ARMS.items():
    tensors |= step(name, arm(reference, method, place), tensors)
write(folder / "vit.safetensors", tensors)

reference = perturbed(build(VisionTransformerDistilled))
tensors = start(reference, batch)
for name in ["none", "per-sequence"]:
    model = arm(reference, *ARMS[name])
    model.set_distilled_training(True)
    heads = model(images)
    loss = (cross_entropy(heads[0], targets) + cross_entropy(heads[1], targets)) / 2
    tensors |= record(name, model, heads[0], loss)
    tensors[f"{name}/logits_dist"] = heads[1].detach()
with torch.no_grad():
    tensors["eval/logits"] = reference.eval()(images)
write(folder / "deit.safetensors", tensors)
