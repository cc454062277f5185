"""What conditioned tokens cost: the training step with each method against the one without.

    cargo build --release --example train-step
    python scripts/conditioning_cost.py [--cases vit_small_patch16_224:8 ...] [--rounds 3]

The arms take turns in processes of their own; printed are medians over the steps after the first two,
what each arm costs against the one without in the same round, and how large a share of that step the
conditioning takes alone, forward and backward: whole steps of a shared machine wander by more than the
share. A row without numbers is a method that the model refuses; below the table stands why.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

import machine

CASES = [
    "vit_small_patch16_224:8", "gpt2-6x384:8", "vit-32:64",
    "swin_tiny_patch4_window7_224:8", "xcit_small_12_p16_224:8", "davit_tiny:8",
]  # fmt: skip
ARMS = ["none", "per-sequence", "pooled"]
WARM = 2


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="MODEL:BATCH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", default=f"{target}/release/examples/train-step")
    return parser.parse_args()


def run(command, threads):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def refusal(command, arm, threads):
    """Why the model does not take the arm, or None."""
    done = run([*command, "--steps", "0", "--conditioning", arm], threads)
    if arm == "none" and done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    # With RUST_BACKTRACE lines of the program follow.
    return done.stderr.partition("\n")[0].removeprefix("error: ") if done.returncode != 0 else None


def times_of(command, threads):
    done = run(command, threads)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [line["total_ms"] for line in lines[WARM:-1]], lines[-1]["conditioning_ms"]


def compare(case, options):
    """Prints the rows of a case and returns what its model refuses."""
    name, _, batch = case.rpartition(":")
    command = [options.binary, "--model", name, "--batch", batch]
    refusals = {arm: refusal(command, arm, options.threads) for arm in ARMS}
    taken = [arm for arm in ARMS if refusals[arm] is None]
    medians = {arm: [] for arm in taken}
    alone = {arm: [] for arm in taken}
    for _ in range(options.rounds):
        for arm in taken:
            timed = [*command, "--steps", str(options.steps), "--conditioning", arm]
            times, own = times_of(timed, options.threads)
            medians[arm].append(statistics.median(times))
            alone[arm].append(own)
    for arm in ARMS:
        if arm not in taken:
            print(f"| {case} | {arm} | - | - | - | - |")
            continue
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
    return [f"{case}, {arm}: {reason}" for arm, reason in refusals.items() if reason is not None]


def main():
    options = arguments()
    load = machine.Load()
    print(f"{machine.caption(threads=options.threads)}\n")
    print("| model:batch | tokens | ms per step | cost, median of rounds | least to greatest | alone |")
    print("| --- | --- | --- | --- | --- | --- |")
    refusals = [line for case in options.cases for line in compare(case, options)]
    print("\n".join(["", *refusals, str(load)]))


if __name__ == "__main__":
    main()
