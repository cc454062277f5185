"""What the fixtures of image models share: conditioned tokens (C detached) and the tensors of an arm.

`make_fixture.py` of vit_parity, swin_parity, xcit_parity and davit_parity import this file;
`image_parity.rs` reads what they write:

    images, targets             the batch, soft targets
    parameter/NAME              where every arm starts
    buffer/NAME                 running statistics before the step and in evaluation
    ARM/logits, ARM/loss        of one pass in training mode
    ARM/gradient/NAME           of every parameter
    ARM/buffer_after/NAME       running statistics after the pass
    eval/logits                 evaluation mode, without conditioning
"""

import timm
import torch
from safetensors.torch import save_file
from torch.nn.functional import batch_norm, cross_entropy

# Of the matrices that are inverted: what f64 loses in the comparison.
CONDITION_LIMIT = 1e4

torch.set_default_dtype(torch.float64)


class PerSequence(torch.nn.Module):
    """X + t sigma_1 U V^T of each sequence, by the SVD itself."""

    def __init__(self, t):
        super().__init__()
        self.t = t

    def forward(self, x):
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        assert s.max() / s.min() < CONDITION_LIMIT
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
        assert values.max() / values.min() < CONDITION_LIMIT
        root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
        m = torch.eye(len(root)) + self.t * values.max().sqrt() * root
        return x @ m


class Standardised(torch.nn.Module):
    """Batch normalisation without affine map, over all tokens of the batch."""

    def forward(self, x):
        y = batch_norm(x.flatten(0, 1), None, None, training=True)
        return y.reshape(x.shape)


ARMS = {"none": None, "per-sequence": PerSequence(1.0), "pooled": PooledCurrent(0.3)}


def condition(module, method, layout="NLC"):
    """Applies `method` to what `module` gives, seen as (B, N, C)."""

    def hook(_module, _inputs, out):
        if layout == "NLC":
            return method(out)
        if layout == "NHWC":
            return method(out.flatten(1, 2)).view_as(out)
        assert layout == "NCHW"
        return method(out.flatten(2).transpose(1, 2)).transpose(1, 2).view(out.shape)

    if method is not None:
        module.register_forward_hook(hook)


def perturbed(model, by=0.3):
    """The model with every tensor uniformly off its initial value, and positive variances."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * (2 * torch.rand_like(parameter) - 1))
        for name, buffer in statistics(model):
            buffer.add_(by * (2 * torch.rand_like(buffer) - 1))
            assert not name.endswith("var") or buffer.min() > 0
    return model


def statistics(model):
    """The running statistics by name."""
    return [(name, b) for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var"))]


def random_batch(images, side, classes):
    """Images (B, 3, side, side), stored in f32 for their size, and soft targets (B, classes)."""
    return {
        "images": torch.randn(images, 3, side, side).float(),
        "targets": torch.softmax(torch.randn(images, classes), dim=1),
    }


def start(reference, batch):
    """The tensors that every arm starts from."""
    tensors = dict(batch)
    tensors |= {f"parameter/{name}": p.detach().clone() for name, p in reference.named_parameters()}
    return tensors | {f"buffer/{name}": b.clone() for name, b in statistics(reference)}


def record(arm, model, logits, loss):
    """The tensors of one arm: of `loss`, every gradient, and the statistics that the pass left."""
    loss.backward()
    tensors = {f"{arm}/logits": logits.detach(), f"{arm}/loss": loss.detach()}
    tensors |= {f"{arm}/gradient/{name}": p.grad.clone() for name, p in model.named_parameters()}
    return tensors | {f"{arm}/buffer_after/{name}": b.clone() for name, b in statistics(model)}


def step(arm, model, tensors):
    """`record` of the soft-target cross-entropy of one pass in training mode."""
    logits = model.train()(tensors["images"].double())
    return record(arm, model, logits, cross_entropy(logits, tensors["targets"]))


def write(path, tensors):
    versions = {"torch": torch.__version__, "timm": timm.__version__}
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, versions)
    print(path, path.stat().st_size, "bytes")


def family(build, tokens, side, classes=5):
    """A model away from its initial values, and the fixture of its family.

    `build(**options)` is a model without drop path; `tokens(model)` is the module that gives what
    enters the first block, and the layout of that.
    """
    reference = perturbed(build())
    tensors = start(reference, random_batch(3, side, classes))
    for arm, method in ARMS.items():
        model = build()
        model.load_state_dict(reference.state_dict())
        module, layout = tokens(model)
        condition(module, method, layout)
        tensors |= step(arm, model, tensors)
    with torch.no_grad():
        tensors["eval/logits"] = reference.eval()(tensors["images"].double())
    return reference, tensors
