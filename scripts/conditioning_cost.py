"""What conditioned tokens cost: the training step with each method against the one without.

    cargo build --release --example train-step
    python scripts/conditioning_cost.py [--cases vit_small_patch16_224:8 vit-32:64] [--rounds 3]

The arms take turns in processes of their own; printed are medians over the steps after the first two,
what each arm costs against the one without in the same round, and how large a share of that step the
conditioning takes alone, forward and backward: whole steps of a shared machine wander by more than the
share.
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
    return [line["total_ms"] for line in lines[WARM:-1]], lines[-1]["conditioning_ms"]


def main():
    options = arguments()
    print("| model:batch | tokens | ms per step | cost, median of rounds | least to greatest | alone |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case in options.cases:
        name, batch = case.split(":")
        command = [options.binary, "--model", name, "--batch", batch, "--steps", str(options.steps)]
        medians = {arm: [] for arm in ARMS}
        alone = {arm: [] for arm in ARMS}
        for _ in range(options.rounds):
            for arm in ARMS:
                times, own = times_of([*command, "--conditioning", arm], options.threads)
                medians[arm].append(statistics.median(times))
                alone[arm].append(own)
        for arm in ARMS:
            # Arms of one round ran next to each other: what slowed one slowed the other.
            pairs = zip(medians[arm], medians["none"], strict=True)
            costs = [100 * (ours / plain - 1) for ours, plain in pairs]
            step = statistics.median(medians["none"])
            share = "-"
            if arm != "none":
                own = statistics.median(alone[arm])
                share = f"{own:.1f} ms, {100 * own / step:.1f} %"
            print(
                f"| {case} | {arm} | {statistics.median(medians[arm]):.0f} "
                f"| {statistics.median(costs):+.1f} % | {min(costs):+.1f} to {max(costs):+.1f} % "
                f"| {share} |"
            )


if __name__ == "__main__":
    main()
