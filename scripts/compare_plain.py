"""Times training steps: this workspace against the same ViT in plain candle operations.

    cargo build --release --example train-step
    python scripts/compare_plain.py [--cases vit_small_patch16_224:8 vit-32:64] [--rounds 2]

Builds `scripts/plain-candle` twice (as candle comes, and with this project's matrix kernels and
allocator), then runs the three in turns from the same weights and batch, checks that the losses of
20 steps agree, and prints medians, ratios and peak memory. Needs no Python package: the weights are
those that `train-step --save-case` writes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PLAIN = os.path.join(ROOT, "scripts", "plain-candle")
WARM = 2
# f32 programs that sum in different orders; losses of 20 steps at learning rate 1e-3.
TOLERANCE = 5e-3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    parser.add_argument("--cases", nargs="+", default=["vit_small_patch16_224:8", "vit-32:64"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", default=f"{target}/release/examples/train-step")
    parser.add_argument("--plain-target", default=f"{target}/plain-candle")
    return parser.parse_args()


def build(target, features):
    """Builds plain-candle into a folder of its own and returns the binary."""
    folder = f"{target}-{features or 'stock'}"
    command = ["cargo", "build", "--release", "--target-dir", folder]
    subprocess.run(command + (["--features", features] if features else []), cwd=PLAIN, check=True)
    return f"{folder}/release/plain-candle"


def run(command, threads):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return lines[:-1], lines[-1]


def compare(case, binaries, options, folder):
    name, batch = case.split(":")
    init, inputs, steps = f"{folder}/init.safetensors", f"{folder}/inputs.safetensors", str(options.steps)
    ours = [options.binary, "--model", name, "--batch", batch]
    run([*ours, "--steps", "0", "--save-case", folder], options.threads)
    ways = {"ours": [*ours, "--steps", steps, "--init", init, "--inputs", inputs]}
    ways |= {way: [binary, name, batch, steps, init, inputs] for way, binary in binaries.items()}
    times, peaks, losses = {w: [] for w in ways}, {w: [] for w in ways}, {}
    for _ in range(options.rounds):
        for way, command in ways.items():
            lines, end = run(command, options.threads)
            times[way] += [line["total_ms"] for line in lines[WARM:]]
            peaks[way].append(end["peak_mib"])
            losses[way] = [line["loss"] for line in lines]
    base = statistics.median(times["ours"])
    for way in ways:
        worst = max(abs(a - b) / abs(b) for a, b in zip(losses["ours"], losses[way]))
        if worst > TOLERANCE:
            sys.exit(f"{case}: the losses of {way} differ by {worst:.1e} from ours")
        median = statistics.median(times[way])
        print(f"| {case} | {way} | {median:.0f} | {median / base:.2f} | {max(peaks[way]):.0f} | {worst:.0e} |")


def main():
    options = arguments()
    binaries = {
        "candle, same kernels and allocator": build(options.plain_target, "tuned"),
        "candle as it comes": build(options.plain_target, ""),
    }
    print("| model:batch | way | ms per step | times ours | peak MiB | losses differ by |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            compare(case, binaries, options, folder)


if __name__ == "__main__":
    main()
