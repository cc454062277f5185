"""Times training steps: this workspace against PyTorch, same weights, same batch, in one run.

    cargo build --release --example train-step
    python scripts/compare_pytorch.py [--cases vit_small_patch16_224:8 ...] [--rounds 5] [--compile]

Forward, backward and AdamW in f32 on the CPU, or with --device cuda:0 on a GPU, without drop path. PyTorch draws weights, running
statistics and batch; every way starts from them in a process of its own, and the ways take turns, so
that a slow moment of the machine meets them all. The losses of all steps must agree; of a
detector, which draws what it trains on, the first roughly. Printed are
medians over the steps after the first two, the ratio PyTorch / ours, the peak memory of the process,
and the share of the speed of large products, PyTorch's and ours: the median 2048 x 2048 product of each in every round,
because a machine that others share is faster in one moment than in the next, and steps are medians too; the share is the median of the rounds.
There are two because PyTorch's library may not use the full vectors of a processor: MKL leaves them alone where it is
not one of Intel's, unless --fast-mkl tells it otherwise. A model is a
preset, or a ViT like vit-32 of other sizes, as vit:width=384,side=48,depth=6. Needs torch,
torchvision, timm, transformers, safetensors.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import machine

CASES = [
    "vit_small_patch16_224:8", "gpt2-6x384:8", "vit-32:64",
    "swin_tiny_patch4_window7_224:8", "xcit_small_12_p16_224:8", "davit_tiny:8",
    "mask_rcnn_xcit_small_12_p16_224:1",
]  # fmt: skip
GPT2 = {
    "gpt2-6x384": {"vocab_size": 4096, "n_positions": 256, "n_embd": 384, "n_layer": 6, "n_head": 6},
    "gpt2": {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12},
}
DETECTOR = "mask_rcnn_"
ROOT = pathlib.Path(__file__).resolve().parent.parent
WARM = 2
RATE, DECAY = 1e-3, 0.05
TABLES = (
    "pos_embed", "cls_token", "dist_token", "relative_position_bias_table", "wte.weight", "wpe.weight",
)  # fmt: skip
STATISTICS = ("running_mean", "running_var")
# Losses of two f32 programs drift apart with the steps; at the first ones they agree to 1e-5.
TOLERANCE = 5e-3
# In bf16 eight bits agree.
BF16_TOLERANCE = 3e-2
# A detector of ours draws what it trains on, that of PyTorch takes the first: the first losses agree roughly.
DRAWN = 0.2


@dataclasses.dataclass
class Vit:
    """The sizes of vit-32, of which a case can change some."""

    width: int = 192
    side: int = 32
    depth: int = 6

    @staticmethod
    def of(name):
        """Those that a case names, None where it names another model."""
        if name == "vit-32":
            return Vit()
        if not name.startswith("vit:"):
            return None
        pairs = (pair.split("=") for pair in name.removeprefix("vit:").split(","))
        return Vit(**{key: int(value) for key, value in pairs})

    @property
    def heads(self):
        return self.width // 64

    def options(self):
        """What train-step is told."""
        fields = {"width": self.width, "heads": self.heads, "image_size": self.side, "depth": self.depth}
        pairs = [part for key, value in fields.items() for part in ("--set", f"{key}={value}")]
        return ["--model", "vit-32", *pairs]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="MODEL:BATCH")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N; memory is then that of the GPU, by nvidia-smi")
    parser.add_argument("--compile", action="store_true", help="torch.compile as a further way")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="bf16: PyTorch's by autocast")
    parser.add_argument("--binary", default=f"{target}/release/examples/train-step")
    parser.add_argument("--fast-mkl", action="store_true", help="PyTorch's MKL as on a processor of Intel's; needs cc")
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    return parser.parse_args()


def with_fast_mkl():
    """Runs this program again where MKL's question for a processor of Intel's is answered by yes."""
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/mkl_of_intel.so"
        answer = "int mkl_serv_intel_cpu_true(void) { return 1; }"
        subprocess.run(["cc", "-shared", "-fPIC", "-xc", "-", "-o", library], input=answer, text=True, check=True)
        print("PyTorch's MKL takes the processor for one of Intel's.", flush=True)
        command = [sys.executable, *(argument for argument in sys.argv if argument != "--fast-mkl")]
        sys.exit(subprocess.run(command, env=dict(os.environ, LD_PRELOAD=library)).returncode)


def build(name):
    """The PyTorch model of a case and its loss on a batch."""
    from torch.nn.functional import cross_entropy

    if name.startswith("gpt2"):
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            **GPT2[name], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="sdpa",
            use_cache=False,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)

        def loss(batch):
            ids, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
            return cross_entropy(model(ids).logits.flatten(0, 1), targets.flatten())

        return model, loss
    if name.startswith(DETECTOR):
        sys.path.insert(0, str(ROOT / "crates/models/tests/suite/mask_rcnn_parity"))
        from detector import Config, Detector, losses

        model = Detector(Config())

        def loss(batch):
            objects = [batch[key] for key in ("boxes", "classes", "masks")]
            sizes = [tuple(image.shape[1:]) for image in batch["images"]]
            return sum(losses(model, batch["images"], sizes, *objects).values())

        return model, loss
    if vit := Vit.of(name):
        from timm.models.vision_transformer import VisionTransformer

        model = VisionTransformer(
            num_classes=1000, img_size=vit.side, patch_size=4, embed_dim=vit.width, depth=vit.depth,
            num_heads=vit.heads,
        )  # fmt: skip
    else:
        import timm

        model = timm.create_model(name, pretrained=False, drop_path_rate=0.0)
    return model, lambda batch: cross_entropy(model(batch["images"]), batch["labels"])


def parameters(model):
    """The parameters by the names that our models use."""
    return {name.removeprefix("transformer."): p for name, p in model.named_parameters()}


def state(model):
    """Parameters and running statistics by the names that our models use."""
    running = {name: b for name, b in model.named_buffers() if name.endswith(STATISTICS)}
    return parameters(model) | running


def image_side(name):
    vit = Vit.of(name)
    return vit.side if vit else 224


def objects(batch, side, count=8):
    """Images with filled boxes as objects."""
    import torch

    corner, size = torch.randint(0, side - 200, (batch, count, 2)), torch.randint(20, 200, (batch, count, 2))
    boxes = torch.cat([corner, corner + size], dim=2)
    x1, y1, x2, y2 = (boxes[:, :, i, None, None] for i in range(4))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    masks = (y >= y1) & (y < y2) & (x >= x1) & (x < x2)
    return {
        "images": torch.randn(batch, 3, side, side), "boxes": boxes.float(),
        "classes": torch.randint(0, 80, (batch, count)), "masks": masks.float(),
    }  # fmt: skip


def save_case(name, batch, folder):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model, _ = build(name)
    weights = {n: t.detach().contiguous() for n, t in state(model).items()}
    save_file(weights, f"{folder}/init.safetensors")
    if name.startswith("gpt2"):
        vocabulary, context = GPT2[name]["vocab_size"], GPT2[name]["n_positions"]
        inputs = {"tokens": torch.randint(0, vocabulary, (batch, context + 1))}
    elif name.startswith(DETECTOR):
        inputs = objects(batch, 512)
    else:
        side = image_side(name)
        inputs = {"images": torch.randn(batch, 3, side, side), "labels": torch.randint(0, 1000, (batch,))}
    save_file({n: t.to(torch.uint32) if not t.is_floating_point() else t for n, t in inputs.items()},
              f"{folder}/inputs.safetensors")


def child(name, folder, steps, way, device, precision):
    """Runs the steps in PyTorch and prints the lines that train-step prints."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model, loss_of = build(name)
    model.to(device)
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None
    own, given = parameters(model), load_file(f"{folder}/init.safetensors")
    with torch.no_grad():
        for key, tensor in state(model).items():
            tensor.copy_(given[key])
    del given
    batch = load_file(f"{folder}/inputs.safetensors")
    batch = {n: (t if t.is_floating_point() else t.long()).to(device) for n, t in batch.items()}
    decays = lambda n, p: p.ndim > 1 and not n.endswith(TABLES)
    groups = [
        {"params": [p for n, p in own.items() if decays(n, p)], "weight_decay": DECAY},
        {"params": [p for n, p in own.items() if not decays(n, p)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    step_loss = torch.compile(loss_of) if way == "compile" else loss_of
    for step in range(int(steps)):
        start = time.perf_counter()
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=precision == "bf16"):
            loss = step_loss(batch)
        value = loss.item()
        forward = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        wait()
        backward = time.perf_counter()
        optimizer.step()
        wait()
        end = time.perf_counter()
        milliseconds = {
            "forward_ms": forward - start, "backward_ms": backward - forward,
            "optimizer_ms": end - backward, "total_ms": end - start,
        }  # fmt: skip
        print(json.dumps({"step": step, "loss": value, **{k: 1e3 * v for k, v in milliseconds.items()}}))
    print(json.dumps({"peak_mib": machine.peak_memory()}))


def run(command, threads, device="cpu"):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads))
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with contextlib.nullcontext() if device == "cpu" else machine.GpuMemory(device) as gpu:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if gpu:
        lines[-1]["peak_mib"] = gpu.peak
    return lines[:-1], lines[-1]


def speed_of_pytorch(device):
    """FLOP/s of the median of many products of 2048 x 2048 matrices."""
    import torch

    a, b = torch.randn(2, 2048, 2048, device=device)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / statistics.median(times)


def our_speed(binary, threads, device):
    """The same of the product that our models use."""
    _, end = run([binary, "--batch", "1", "--steps", "0", "--products", "--device", device], threads, device)
    return 1e9 * end["matmul_gflops"]


@dataclasses.dataclass
class Measured:
    """What the rounds of one way have measured."""

    rounds: list = dataclasses.field(default_factory=list)
    memory: list = dataclasses.field(default_factory=list)
    losses: list = dataclasses.field(default_factory=list)
    flops: float | None = None

    def add(self, lines, end):
        self.rounds.append([line["total_ms"] for line in lines[WARM:]])
        self.memory.append(end["peak_mib"])
        self.losses = [line["loss"] for line in lines]
        self.flops = end.get("flops")

    def milliseconds(self):
        return statistics.median(time for times in self.rounds for time in times)

    def share(self, flops, speeds):
        """Of the speed of products in each round, as text."""
        shares = [flops / (1e-3 * statistics.median(times)) / speed for times, speed in zip(self.rounds, speeds)]
        return f"{100 * statistics.median(shares):.0f} %"

    def peak_mib(self):
        return "not known" if None in self.memory else f"{max(self.memory):.0f}"


def check_losses(case, ways, precision):
    """Ends the program where a loss of ours is not that of PyTorch."""
    for way, measured in ways.items():
        same = list(zip(ways["ours"].losses, measured.losses))
        tolerance = TOLERANCE if precision == "f32" else BF16_TOLERANCE
        tolerance, same = (DRAWN, same[:1]) if case.startswith(DETECTOR) else (tolerance, same)
        for step, (a, b) in enumerate(same):
            if abs(a - b) > tolerance * abs(b):
                sys.exit(f"{case}: step {step}: our loss {a} is not the {b} of PyTorch {way}")


def measure(case, options, threads, before_a_round=lambda: None):
    """The ways of a case, "ours" and those of PyTorch."""
    name, _, batch = case.rpartition(":")
    vit, steps = Vit.of(name), str(options.steps)
    with tempfile.TemporaryDirectory() as folder:
        save_case(name, int(batch), folder)
        model = vit.options() if vit else ["--model", name]
        commands = {"ours": [
            options.binary, *model, "--batch", batch, "--steps", steps, "--device", options.device,
            "--precision", options.precision,
            "--init", f"{folder}/init.safetensors", "--inputs", f"{folder}/inputs.safetensors",
        ]}  # fmt: skip
        for way in ["eager", "compile"] if options.compile else ["eager"]:
            commands[way] = [sys.executable, __file__, "--child", name, folder, steps, way, options.device, options.precision]
        ways = {way: Measured() for way in commands}
        for _ in range(options.rounds):
            before_a_round()
            for way, command in commands.items():
                ways[way].add(*run(command, threads, options.device))
    check_losses(case, ways, options.precision)
    return ways


def compare(case, options):
    """Prints the rows of a case and returns the two speeds of products in its rounds."""
    device, speeds = options.device, []
    products = lambda: speeds.append((speed_of_pytorch(device), our_speed(options.binary, options.threads, device)))
    ways = measure(case, options, options.threads, products)
    ours, eager = ways["ours"], ways["eager"]
    for way, measured in ways.items():
        median = measured.milliseconds()
        ratio = "" if way == "ours" else f"{median / ours.milliseconds():.2f}"
        # How many proposals of a detector are objects is known to the step alone.
        unknown = case.startswith(DETECTOR)
        shares = ["", ""] if unknown else [measured.share(ours.flops, of) for of in zip(*speeds)]
        print(f"| {case} | {way} | {median:.0f} | {ratio} | {measured.peak_mib()} "
              f"| {' | '.join(shares)} |")
    print(f"<!-- losses of the first and the last step: {ours.losses[0]:.5f} {ours.losses[-1]:.5f} (ours), "
          f"{eager.losses[0]:.5f} {eager.losses[-1]:.5f} -->", flush=True)
    return speeds


def main():
    options = arguments()
    if options.child:
        return child(*options.child)
    if options.fast_mkl:
        with_fast_mkl()
    load = machine.Load()
    import torch

    torch.set_num_threads(options.threads)
    caption = machine.caption("torch", threads=options.threads)
    if options.device != "cpu":
        caption += f", on {torch.cuda.get_device_name(options.device)}"
    print(f"{caption}\n")
    print("| model:batch | way | ms per step | PyTorch / ours | peak MiB | share of PyTorch's products "
          "| share of our products |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    speeds = [speeds for case in options.cases for speeds in compare(case, options)]
    theirs, ours = (f"{min(of) * 1e-9:.0f} to {max(of) * 1e-9:.0f} GFLOP/s" for of in zip(*speeds))
    print(f"\nProducts: {theirs} of PyTorch, {ours} of ours, from round to round")
    print(f"\n{load}")


if __name__ == "__main__":
    main()
