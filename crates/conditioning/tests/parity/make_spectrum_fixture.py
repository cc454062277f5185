"""Makes spectra.safetensors: NumPy's singular values of f32 matrices, and what is measured of them.

    python make_spectrum_fixture.py        (needs numpy and safetensors; writes beside itself)

A matrix NAME is f32; NAME.measures are six f64 of the very same numbers: kappa, effective kappa, effective
rank, spectral norm, entropy, rank. NAME says rows, columns, kind and kappa before rounding to f32. Of a
singular matrix kappa is infinite: NumPy's number is rounding.
"""

import os

import numpy as np
from safetensors.numpy import save_file

SHAPES = [(17, 64), (17, 17), (64, 16), (65, 48)]
TAU = 1e-7


def spectrum(kind, rank, kappa):
    """Singular values from 1 down to 1 / kappa."""
    if kind == "geometric":
        return kappa ** -np.linspace(0, 1, rank)
    if kind == "first":  # tokens with a common mean
        return np.where(np.arange(rank) == 0, 1.0, 1.0 / kappa)
    if kind == "last":  # one direction is nearly lost
        return np.where(np.arange(rank) == rank - 1, 1.0 / kappa, 1.0)
    raise ValueError(kind)


KINDS = [("geometric", 2.0), ("geometric", 1e3), ("geometric", 1e6), ("first", 1e4), ("last", 1e6)]


def matrices(rng):
    for n, d in SHAPES:
        for kind, kappa in KINDS:
            rank = min(n, d)
            u = np.linalg.qr(rng.standard_normal((n, rank)))[0]
            v = np.linalg.qr(rng.standard_normal((d, rank)))[0]
            size = 10.0 ** rng.uniform(-3, 3)
            yield f"{n}x{d}.{kind}.{kappa:g}", size * (u * spectrum(kind, rank, kappa)) @ v.T
    q, k = rng.standard_normal((2, 17, 16))
    scores = np.exp(q @ k.T / 4)
    yield "17x17.attention", scores / scores.sum(1, keepdims=True)
    # Small integers: the product is exact in f32, and so is its rank of 5.
    a, b = rng.integers(-3, 4, (17, 5)), rng.integers(-3, 4, (5, 24))
    yield "17x24.singular", a @ b


def measures(x, singular):
    sigma = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    share = sigma[sigma > 0] / sigma.sum()
    entropy = -(share * np.log(share)).sum()
    kappa = np.inf if singular else sigma[0] / sigma[-1]
    kept = sigma[sigma >= TAU * sigma[0]]
    return np.array([kappa, sigma[0] / kept[-1], np.exp(entropy), sigma[0], entropy, len(kept)])


def main():
    tensors = {}
    for name, x in matrices(np.random.default_rng(0)):
        x = np.ascontiguousarray(x, dtype=np.float32)
        tensors |= {name: x, f"{name}.measures": measures(x, name.endswith("singular"))}
    path = os.path.join(os.path.dirname(__file__), "spectra.safetensors")
    save_file(tensors, path, metadata={"numpy": np.__version__})


if __name__ == "__main__":
    main()
