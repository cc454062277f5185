"""Times conditioned tokens: candle-conditioning against PyTorch, on the same bits, alternating.

    cargo build --release -p candle-conditioning --example time_exact
    python scripts/compare_conditioning.py [--rounds 15] [--threads 2] [--binary PATH] [--markdown]

Forward, detached, t = 1, f32 inputs with singular values falling from 1 to 1/kappa. Each round runs
every way once and the ways take turns, so that a slow moment of the machine meets them all; printed
are medians, the ratio to ours, and the worst kappa(Y), measured in float64 by one and the same
routine. A way is a peer only if its kappa(Y) is at most 2.01. Needs torch, numpy, safetensors.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import machine

SHAPES = [(32, 197, 768), (64, 65, 192), (32, 128, 384), (16, 256, 256)]
TARGETS = dict(zip(SHAPES, [4, 4, 4, 2]))
VALID = 2.01

# Polar Express, degree 5, lower end 1e-3: Algorithm 1 of arXiv 2505.16932.
COEFFICIENTS = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845749493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kappa", type=float, default=1e3)
    parser.add_argument("--seed", type=int, default=0)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--binary", default=f"{target}/release/examples/time_exact")
    parser.add_argument("--markdown", action="store_true", help="print the table of the README only")
    return parser.parse_args()


def with_kappa(torch, shape, kappa, seed):
    """(B, N, d) f32 with singular values evenly spaced in the logarithm."""
    generator = torch.Generator().manual_seed(seed)
    batch, n, d = shape
    rank = min(n, d)
    draw = lambda rows: torch.linalg.qr(
        torch.randn(batch, rows, rank, generator=generator, dtype=torch.float64)
    ).Q
    sigma = kappa ** -torch.linspace(0, 1, rank, dtype=torch.float64)
    return ((draw(n) * sigma) @ draw(d).mT).float().contiguous()


def by_svd(torch, x):
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return x + s[..., :1, None] * (u @ vh)


def by_eigh(torch, x, dtype):
    wide = x.shape[-2] <= x.shape[-1]
    rows = (x if wide else x.mT).to(dtype)
    values, vectors = torch.linalg.eigh(rows @ rows.mT)
    sigma = values.clamp_min(0).sqrt()
    top = sigma[..., -1:]
    weights = top / sigma.maximum(1e-7 * top)
    c = ((vectors * weights[..., None, :]) @ (vectors.mT @ rows)).to(x.dtype)
    return x + (c if wide else c.mT)


def by_polar_express(torch, x, steps):
    wide = x.shape[-2] <= x.shape[-1]
    rows = x if wide else x.mT
    # sigma_1 by thirty power steps, two at a time; the start is scaled by a bound that never
    # undershoots and is far tighter than the Frobenius norm: ||(P P^T)^2||_F^(1/4).
    gram = rows @ rows.mT
    squared = gram @ gram
    v = torch.randn(x.shape[0], rows.shape[-2], 1, generator=torch.Generator().manual_seed(1))
    for _ in range(15):
        v = squared @ v
        v = v / v.norm(dim=1, keepdim=True)
    top = (v.mT @ gram @ v).sqrt()
    p = rows / (1.01 * squared.norm(dim=(1, 2), keepdim=True) ** 0.25)
    for step in range(steps):
        a, b, c = COEFFICIENTS[min(step, 7)]
        if step < min(steps, 8) - 1:
            a, b, c = a / 1.01, b / 1.01**3, c / 1.01**5
        gram = p @ p.mT
        p = a * p + (b * gram + c * (gram @ gram)) @ p
    c = top * p
    return x + (c if wide else c.mT)


def ours(binary, path, threads):
    command = [binary, "--input", path, "--runs", "1"]
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    line = json.loads(done.stdout)
    return line["milliseconds"], line["kappa"]


def kappa_of(torch, y):
    sigma = torch.linalg.svdvals(y.double())
    return (sigma[:, 0] / sigma[:, -1]).max().item()


def compare(torch, shape, options, path):
    from safetensors.torch import save_file

    x = with_kappa(torch, shape, options.kappa, options.seed)
    save_file({"x": x}, path)
    ways = {
        "torch svd": lambda: by_svd(torch, x),
        "torch eigh f32": lambda: by_eigh(torch, x, torch.float32),
        "torch eigh f64": lambda: by_eigh(torch, x, torch.float64),
    }
    for steps in (6, 7, 8):
        ways[f"torch polar express {steps}"] = lambda steps=steps: by_polar_express(torch, x, steps)
    kappas = {name: kappa_of(torch, way()) for name, way in ways.items()}
    times = {name: [] for name in ["ours", *ways]}
    for _ in range(options.rounds):
        milliseconds, kappas["ours"] = ours(options.binary, path, options.threads)
        times["ours"].append(milliseconds)
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: (statistics.median(t), kappas[name]) for name, t in times.items()}


def detail(shape, rows):
    print(f"\n{shape}")
    base = rows["ours"][0]
    for name, (milliseconds, kappa) in rows.items():
        peer = "" if kappa <= VALID else "   not a peer: kappa(Y) > 2.01"
        print(f"  {name:22} {milliseconds:9.2f} ms {milliseconds / base:7.2f}x   kappa(Y) {kappa:.7f}{peer}")


def summary(shape, rows):
    """One row of the README's table."""
    base, kappa = rows["ours"]
    peers = {n: m for n, (m, k) in rows.items() if n != "ours" and k <= VALID}
    fastest = min(peers, key=peers.get)
    svd = rows["torch svd"][0]
    return (
        f"| {shape} | {base:.1f} | {svd:.1f} | {svd / base:.1f} (at least {TARGETS[shape]}) | "
        f"{fastest.removeprefix('torch ')}: {peers[fastest]:.1f} | {peers[fastest] / base:.2f} | {kappa:.6f} |"
    )


def main():
    options = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    # OMP_WAIT_POLICY stays as it is: PASSIVE slows PyTorch's SVD by four times on quiet cores.
    import torch

    torch.set_num_threads(options.threads)
    load = machine.Load()
    table = [
        machine.caption("torch", threads=options.threads),
        "",
        "| (B, N, d) | ours, ms | torch svd, ms | ratio | fastest valid torch way, ms | ratio | kappa(Y) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for shape in SHAPES:
            rows = compare(torch, shape, options, os.path.join(folder, "x.safetensors"))
            if not options.markdown:
                detail(shape, rows)
            table.append(summary(shape, rows))
    print("\n".join([""] * (not options.markdown) + table + ["", str(load)]))


if __name__ == "__main__":
    main()
