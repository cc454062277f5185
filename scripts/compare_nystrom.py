"""Times attention by landmarks: this workspace against PyTorch, forward and backward, in one run.

    cargo build --release -p conditioned-nn --example nystrom_attention
    python scripts/compare_nystrom.py [--lengths 512,1024,2048,4096] [--batch 4] [--rounds 5] [--threads 2]

f32 on the CPU, two heads of 32, 64 landmarks, a convolution of 35 taps. PyTorch runs the attention of transformers'
`NystromformerSelfAttention` from packed queries, keys and values on, without its projections, as ours does. The ways
take turns, each in a process of its own. Printed are medians over the rounds and the ratio PyTorch / ours. Needs torch
and transformers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

WIDTH, HEADS, LANDMARKS, TAPS, PASSES = 64, 2, 64, 35, 20


def child(lengths, batch, threads):
    """PyTorch's passes, one line a length."""
    import torch
    from transformers import NystromformerConfig
    from transformers.models.nystromformer.modeling_nystromformer import NystromformerSelfAttention

    torch.set_num_threads(threads)
    config = NystromformerConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_landmarks=LANDMARKS,
        conv_kernel_size=TAPS, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    attention = NystromformerSelfAttention(config)
    attention.init_option = "exact"

    class Part(torch.nn.Module):
        """Hands out queries, keys or values that are there already."""

        def __init__(self, which):
            super().__init__()
            self.which = which

        def forward(self, packed):
            return packed[..., self.which * WIDTH : (self.which + 1) * WIDTH]

    attention.query, attention.key, attention.value = Part(0), Part(1), Part(2)
    attention.all_head_size = WIDTH

    class Packed(torch.nn.Module):
        def forward(self, packed):
            # The shape that the module reads is that of its tokens, three times as wide here.
            return attention(packed)[0]

    for n in lengths:
        attention.seq_len = n
        qkv = torch.rand(batch, n, 3 * WIDTH).mul_(2).sub_(1).requires_grad_()
        g = torch.rand(batch, n, WIDTH)
        times = []
        for _ in range(PASSES):
            clock = time.perf_counter()
            (Packed()(qkv) * g).sum().backward()
            qkv.grad = None
            attention.zero_grad(set_to_none=True)
            times.append(1e3 * (time.perf_counter() - clock))
        print(json.dumps({"tokens": n, "ms": statistics.median(times)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--lengths", default="512,1024,2048,4096")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", default=f"{target}/release/examples/nystrom_attention")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        lengths = [int(length) for length in options.lengths.split(",")]
        return child(lengths, options.batch, options.threads)
    same = ["--lengths", options.lengths, "--batch", str(options.batch)]
    environment = os.environ | {"RAYON_NUM_THREADS": str(options.threads)}
    python = [sys.executable, __file__, "--child", "--threads", str(options.threads), *same]
    ways = {"ours": [options.binary, *same], "exact": [options.binary, "--exact", *same], "eager": python}
    found = {way: {} for way in ways}
    for _ in range(options.rounds):
        for way, command in ways.items():
            run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            for line in map(json.loads, run.stdout.splitlines()):
                found[way].setdefault(line["tokens"], []).append(line)
    print("| tokens | ours, ms | its peak grows by, MiB | PyTorch eager, ms | PyTorch / ours | exact, ours, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for n in found["ours"]:
        median = {way: statistics.median(line["ms"] for line in found[way][n]) for way in ways}
        grown = statistics.median(line["peak_mib"] for line in found["ours"][n])
        ratio = median["eager"] / median["ours"]
        print(f"| {n} | {median['ours']:.1f} | {grown:.0f} | {median['eager']:.1f} | {ratio:.2f} | {median['exact']:.1f} |")


if __name__ == "__main__":
    main()
