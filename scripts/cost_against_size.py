"""Step time and peak memory of a ViT against its width, tokens, batch and threads, ours and PyTorch's.

    cargo build --release --example train-step
    python scripts/cost_against_size.py [--rounds 2] [--steps 6] [--out docs/cost]

One size is varied, the others stay those of the base: width 192, 65 tokens (images of side 32), batch 32, all
threads; depth 6, heads of 64 channels, patches of 4 pixels. Steps, checks and medians are those of
compare_pytorch.py. Prints a table and writes the figure as OUT.svg and OUT.png. Needs torch, timm, safetensors,
matplotlib.
"""

import argparse
import dataclasses
import os
import pathlib
import subprocess
import sys

import compare_pytorch
import machine

SCRIPTS = pathlib.Path(__file__).resolve().parent
PATCH = 4
COLOURS = {"ours": "#0b6fa4", "PyTorch": "#c4561b"}
GREY = "#666666"


@dataclasses.dataclass(frozen=True)
class Size:
    """What a step costs by."""

    threads: int
    width: int = 192
    side: int = 32
    batch: int = 32

    @property
    def tokens(self):
        return (self.side // PATCH) ** 2 + 1

    def case(self):
        return f"vit:width={self.width},side={self.side}:{self.batch}"


SWEEPS = {"width": (64, 128, 192, 384, 768), "side": (16, 32, 48, 64, 96), "batch": (4, 16, 32, 64, 128)}
# What a panel and a row of the table name; the side of the images varies the tokens.
SHOWN = {"width": "width", "side": "tokens", "batch": "batch", "threads": "threads"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--binary", default=f"{target}/release/examples/train-step")
    parser.add_argument("--out", default=SCRIPTS.parent / "docs/cost", type=pathlib.Path)
    return parser.parse_args()


def sweeps(threads):
    """The sizes of each panel, by what varies."""
    base = Size(max(threads))
    varied = SWEEPS | {"threads": threads}
    return {key: [dataclasses.replace(base, **{key: n}) for n in values] for key, values in varied.items()}


def measure(size, options):
    """Milliseconds a step and peak MiB of both."""
    settings = argparse.Namespace(**vars(options), compile=False, device="cpu", precision="f32")
    ways = compare_pytorch.measure(size.case(), settings, size.threads)
    named = {"ours": ways["ours"], "PyTorch": ways["eager"]}
    return {way: (measured.milliseconds(), max(measured.memory)) for way, measured in named.items()}


def memory_of_imports():
    """Peak MiB of a process that imports PyTorch and timm and does nothing."""
    program = "import torch, timm.models.vision_transformer, machine; print(machine.peak_memory())"
    command = [sys.executable, "-c", program]
    return float(subprocess.run(command, cwd=SCRIPTS, check=True, capture_output=True, text=True).stdout)


def print_table(panels, costs):
    print("| varied | value | ours, ms | PyTorch, ms | PyTorch / ours "
          "| ours, MiB | PyTorch, MiB | PyTorch / ours |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for key, sizes in panels.items():
        for size in sizes:
            (ms, mib), (their_ms, their_mib) = costs[size].values()
            value = getattr(size, SHOWN[key])
            print(f"| {SHOWN[key]} | {value} | {ms:.1f} | {their_ms:.1f} | {their_ms / ms:.2f} "
                  f"| {mib:.0f} | {their_mib:.0f} | {their_mib / mib:.2f} |")  # fmt: skip


def draw_panel(axes, xs, costs, which):
    """The lines of both, and above each point how many times ours PyTorch takes."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

    lines = {way: [cost[way][which] for cost in costs] for way in COLOURS}
    for way, ys in lines.items():
        axes.plot(xs, ys, "o-", color=COLOURS[way], label=way, linewidth=1.8, markersize=4)
    for x, ours, theirs in zip(xs, lines["ours"], lines["PyTorch"]):
        axes.annotate(f"{theirs / ours:.1f}×", (x, max(ours, theirs)), (-5, 7), textcoords="offset points",
                      ha="center", fontsize=8, color=GREY)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(xs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.margins(x=0.12)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def draw(panels, costs, subtitle, out):
    import matplotlib

    matplotlib.use("Agg")
    # The same numbers give the same files.
    matplotlib.rcParams.update({"svg.hashsalt": "cost", "font.size": 10, "axes.axisbelow": True})
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, len(panels), figsize=(13, 6.8), sharex="col", sharey="row")
    for column, (key, sizes) in enumerate(panels.items()):
        xs = [getattr(size, SHOWN[key]) for size in sizes]
        for which in (0, 1):
            draw_panel(grid[which][column], xs, [costs[size] for size in sizes], which)
        grid[1][column].set_xlabel(SHOWN[key])
    for axes, label in zip(grid[:, 0], ("step, ms", "peak memory, MiB")):
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom, top * 1.25)
        axes.set_ylabel(label)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", bbox_to_anchor=(0.985, 0.99), ncols=2, frameon=False)
    figure.suptitle("What a training step of a ViT costs", x=0.012, y=0.985, ha="left", fontsize=14)
    figure.text(0.012, 0.935, subtitle, va="top", fontsize=9, color=GREY, linespacing=1.4)
    figure.tight_layout(rect=(0, 0, 1, 0.905))
    for suffix, metadata in {".svg": {"Date": None}, ".png": {}}.items():
        figure.savefig(out.with_suffix(suffix), dpi=150, facecolor="white", metadata=metadata)


def main():
    options = arguments()
    load = machine.Load()
    panels = sweeps(options.threads)
    # The base stands in every panel and is measured once.
    unique = dict.fromkeys(size for sizes in panels.values() for size in sizes)
    costs = {size: measure(size, options) for size in unique}
    quiet, caption, imports = str(load), machine.caption("torch"), memory_of_imports()
    base = Size(max(options.threads))
    sizes = f"width {base.width}, {base.tokens} tokens, batch {base.batch}, {base.threads} threads"
    about = (f"One size varied, else {sizes}; f32, AdamW. Memory is that of the process; "
             f"PyTorch's imports alone take {imports:.0f} MiB.")  # fmt: skip
    print(f"{caption}\n{about}\n")
    print_table(panels, costs)
    print(f"\n{quiet}")
    subtitle = f"{about} Above the points: PyTorch / ours.\n{caption}. {quiet}."
    draw(panels, costs, subtitle, options.out)


if __name__ == "__main__":
    main()
