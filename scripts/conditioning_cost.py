"""What conditioned tokens cost: the training step with each method against the one without.

    cargo build --release --example train-step
    python scripts/conditioning_cost.py [--cases vit_small_patch16_224:8 vit-32:64] [--rounds 3]

The arms take turns in processes of their own; printed are medians over the steps after the first two.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

ARMS = ["none", "per-sequence", "pooled"]
WARM = 2


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--cases", nargs="+", default=["vit_small_patch16_224:8", "vit-32:64"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", default=f"{target}/release/examples/train-step")
    return parser.parse_args()


def times_of(command, threads):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [line["total_ms"] for line in lines[WARM:-1]]


def main():
    options = arguments()
    print("| model:batch | tokens | ms per step | cost |")
    print("| --- | --- | --- | --- |")
    for case in options.cases:
        name, batch = case.split(":")
        command = [options.binary, "--model", name, "--batch", batch, "--steps", str(options.steps)]
        times = {arm: [] for arm in ARMS}
        for _ in range(options.rounds):
            for arm in ARMS:
                times[arm] += times_of([*command, "--conditioning", arm], options.threads)
        base = statistics.median(times["none"])
        for arm in ARMS:
            median = statistics.median(times[arm])
            print(f"| {case} | {arm} | {median:.0f} | {100 * (median / base - 1):+.1f} % |")


if __name__ == "__main__":
    main()
