"""Makes full_gradient.safetensors: Y = X + t sigma_1 U V^T and its gradient by PyTorch's own SVD.

    python make_fixture.py        (needs torch and safetensors; writes beside itself)

float64 on the CPU, C not detached. The derivative of torch.linalg.svd divides by differences of
squared singular values, so the matrices have full rank and a gap of 4 % between neighbours.
"""

import os

import torch
from safetensors.torch import save_file

SHAPES = [(5, 9), (9, 5), (6, 6), (1, 4), (2, 4, 7)]
STRENGTHS = [0.3, 1.0]


def orthonormal(rows, columns, generator):
    return torch.linalg.qr(torch.randn(*rows, columns, generator=generator, dtype=torch.float64)).Q


def main():
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for index, shape in enumerate(SHAPES):
        rank = min(shape[-2:])
        sigma = 20.0 ** -torch.linspace(0, 1, rank, dtype=torch.float64)
        u = orthonormal(shape[:-1], rank, generator)
        v = orthonormal((*shape[:-2], shape[-1]), rank, generator)
        x = ((u * sigma) @ v.mT).requires_grad_()
        g = torch.randn(*shape, generator=generator, dtype=torch.float64)
        tensors |= {f"{index}.x": x.detach(), f"{index}.g": g}
        for t in STRENGTHS:
            u, s, vh = torch.linalg.svd(x, full_matrices=False)
            y = x + t * s[..., :1, None] * (u @ vh)
            (gradient,) = torch.autograd.grad((y * g).sum(), x)
            tensors |= {f"{index}.y.{t}": y.detach(), f"{index}.dx.{t}": gradient}
    path = os.path.join(os.path.dirname(__file__), "full_gradient.safetensors")
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"torch": torch.__version__})


if __name__ == "__main__":
    main()
