"""Writes roi_align.safetensors: RoIAlign of torchvision, float64, with values and the gradient of the features.

Features and results are written channels last; a row of `rois` is (image, x1, y1, x2, y2).

    pip install torch torchvision safetensors && python make_fixture.py
"""

import pathlib

import torch
from safetensors.torch import save_file
from torchvision.ops import roi_align

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
IMAGES, HEIGHT, WIDTH, CHANNELS = 2, 7, 10, 3
tensors = {}

# Half of the pixels of an image, so that boxes are (2 WIDTH, 2 HEIGHT) at most when they lie inside.
SCALE = 0.5
image = torch.randint(IMAGES, (24, 1)).double()
corners = torch.rand(24, 4) * torch.tensor([2 * WIDTH, 2 * HEIGHT] * 2) * 1.5 - 4
# By hand: the whole image, on pixels, of no size, within one pixel, far outside, huge, thin.
by_hand = torch.tensor(
    [
        [0, 0, 0, 20, 14],
        [1, 1, 1, 15, 15],
        [1, 7, 5, 7, 5],
        [0, 6.2, 4.1, 6.3, 4.3],
        [0, 100, 100, 120, 130],
        [1, -300, -200, 400, 250],
        [1, 3, -9, 3.5, 40],
        [0, 19, 13, 2, 1],
    ],
)
rois = torch.cat([torch.cat([image, corners], 1), by_hand])
features = torch.randn(IMAGES, HEIGHT, WIDTH, CHANNELS, requires_grad=True)

tensors["rois"], tensors["features"] = rois, features
# torchvision does not take boxes of negative size where the number of samples is that of their pixels.
first, second = rois[:, 1:3], rois[:, 3:5]
upright = torch.cat([rois[:, :1], torch.minimum(first, second), torch.maximum(first, second)], 1)
tensors["upright"] = upright
for size, ratio in [(3, 0), (2, 2), (1, 3)]:
    rois = tensors["rois" if ratio else "upright"]
    y = roi_align(features.permute(0, 3, 1, 2), rois, size, SCALE, ratio, aligned=True)
    y = y.permute(0, 2, 3, 1)
    cotangent = torch.rand_like(y)
    (gradient,) = torch.autograd.grad((y * cotangent).sum(), features)
    for key, value in {"y": y, "cotangent": cotangent, "gradient": gradient}.items():
        tensors[f"{size}-{ratio}/{key}"] = value

tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
save_file(tensors, pathlib.Path(__file__).with_name("roi_align.safetensors"))
