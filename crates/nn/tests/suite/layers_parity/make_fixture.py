"""Writes layers.safetensors: layers of images in PyTorch, float64, with values, every gradient and,
for batch normalisation, the buffers after each of three passes (training, training, evaluation).

Images are written channels last, (B, H, W, C).

    pip install torch safetensors && python make_fixture.py
"""

import pathlib

import torch
from safetensors.torch import save_file

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
tensors = {}


def put(name, tensor):
    tensors[name] = tensor.detach().clone().contiguous()


def last(images):
    return images.permute(0, 2, 3, 1)


def record(name, x, y, parameters):
    """Input, result, cotangent and gradients; x and y are channels last."""
    cotangent = torch.rand_like(y)
    gradients = torch.autograd.grad((y * cotangent).sum(), [x, *parameters.values()])
    for key, value in {"x": x, "y": y, "cotangent": cotangent, **parameters}.items():
        put(f"{name}/{key}", value)
    for key, gradient in zip(["x", *parameters], gradients):
        put(f"{name}/gradient/{key}", gradient)


def module(name, layer, x):
    record(name, x, last(layer(x.permute(0, 3, 1, 2))), dict(layer.named_parameters()))


def images(*shape):
    return torch.randn(shape, requires_grad=True)


module("conv-s2", torch.nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), images(2, 6, 5, 3))
module("conv-s4", torch.nn.Conv2d(2, 3, 7, stride=4, padding=3), images(2, 9, 8, 2))
module("depthwise", torch.nn.Conv2d(3, 3, 3, padding=1, groups=3), images(2, 4, 5, 3))

norm = torch.nn.BatchNorm2d(3)
torch.nn.init.normal_(norm.weight)
torch.nn.init.normal_(norm.bias)
for step in ["train1", "train2", "eval"]:
    norm.train(step != "eval")
    module(f"batch-norm-{step}", norm, images(2, 3, 4, 3))
    for buffer in ["running_mean", "running_var"]:
        put(f"batch-norm-{step}/{buffer}", getattr(norm, buffer))

x, gamma = images(2, 3, 4), images(4)
record("layer-scale", x, gamma * x, {"gamma": gamma})

x = images(2, 4, 6, 3)
b, h, w, c = x.shape
# timm's PatchMerging.
merged = x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).flatten(3)
record("merge-patches", x, merged, {})

x = images(2, 3, 4, 3)
record("average-pool", x, x.mean(dim=(1, 2)), {})

module("conv-transpose", torch.nn.ConvTranspose2d(3, 4, 2, stride=2), images(2, 3, 5, 3))
module("max-pool-2", torch.nn.MaxPool2d(2, 2), images(2, 5, 7, 3))
module("max-pool-1", torch.nn.MaxPool2d(1, 2), images(2, 5, 4, 3))
module("upsample", torch.nn.Upsample(size=(7, 9), mode="nearest"), images(2, 3, 5, 3))

x = images(2, 3, 4, 3)
x.data[0, 1] = 0.0
record("relu", x, x.relu(), {})

save_file(tensors, pathlib.Path(__file__).with_name("layers.safetensors"))
