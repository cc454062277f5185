"""Writes vit.safetensors: a tiny timm ViT in float64 with its logits, loss and every gradient,
plain and with conditioned tokens (C detached).

    pip install torch timm safetensors && python make_fixture.py
"""

import pathlib

import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)


class PerSequence(torch.nn.Module):
    """X + t sigma_1 U V^T of each sequence, by the SVD itself."""

    def __init__(self, t):
        super().__init__()
        self.t = t

    def forward(self, x):
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        return x + (self.t * s[..., :1, None] * (u @ vh)).detach()


class NormMatched(torch.nn.Module):
    """X scaled to the norm that PerSequence gives it; the scale is a constant."""

    def __init__(self, t):
        super().__init__()
        self.method = PerSequence(t)

    def forward(self, x):
        norm = lambda m: torch.linalg.matrix_norm(m, keepdim=True)
        return x + ((norm(self.method(x)) / norm(x) - 1) * x).detach()


class PooledCurrent(torch.nn.Module):
    """X M, M = I + t sigma_1 G^(-1/2), G the Gram of all tokens of the batch."""

    def __init__(self, t):
        super().__init__()
        self.t = t

    def forward(self, x):
        tokens = x.detach().flatten(0, 1)
        values, vectors = torch.linalg.eigh(tokens.T @ tokens / len(tokens))
        root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
        m = torch.eye(len(root)) + self.t * values.max().sqrt() * root
        return x @ m


class Standardised(torch.nn.Module):
    """Batch normalisation without affine map, over all tokens of the batch."""

    def forward(self, x):
        y = torch.nn.functional.batch_norm(x.flatten(0, 1), None, None, training=True)
        return y.reshape(x.shape)


ARMS = {
    "none": (None, None),
    "per-sequence": (PerSequence(1.0), "after"),
    "per-sequence-before": (PerSequence(0.3), "before"),
    "norm-matched": (NormMatched(1.0), "after"),
    "pooled": (PooledCurrent(0.3), "after"),
    "standardised": (Standardised(), "after"),
}


def build():
    return VisionTransformer(
        img_size=16, patch_size=4, in_chans=1, num_classes=5, embed_dim=8, depth=2, num_heads=2,
        mlp_ratio=2.0,
    )


reference = build()
with torch.no_grad():  # away from zeros and ones, so that every gradient is exercised
    for parameter in reference.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))

images = torch.randn(3, 1, 16, 16)
targets = torch.softmax(torch.randn(3, 5), dim=1)
tensors = {"images": images, "targets": targets}
for name, parameter in reference.named_parameters():
    tensors[f"parameter/{name}"] = parameter.detach().clone()

for arm, (method, place) in ARMS.items():
    model = build()
    model.load_state_dict(reference.state_dict())
    if place == "after":
        model.norm_pre = method
    if place == "before":
        model.patch_embed.register_forward_hook(lambda _m, _i, out, method=method: method(out))
    logits = model(images)
    loss = torch.nn.functional.cross_entropy(logits, targets)
    loss.backward()
    tensors[f"{arm}/logits"] = logits.detach()
    tensors[f"{arm}/loss"] = loss.detach()
    for name, parameter in model.named_parameters():
        tensors[f"{arm}/gradient/{name}"] = parameter.grad.clone()

path = pathlib.Path(__file__).with_name("vit.safetensors")
versions = {"torch": torch.__version__, "timm": timm.__version__}
save_file({name: t.contiguous() for name, t in tensors.items()}, path, versions)
print(path, path.stat().st_size, "bytes")
