"""Fine-tunes a ViT in PyTorch on the image files of a run of `finetune`, and compares images and losses.

    cargo build --release --bin finetune
    target/release/finetune --init MODEL --data DIR --arms baseline --seeds 1 --set crop_scale=null \
        --set flip=false --set layer_decay=1 --out RUNS
    python scripts/compare_images.py MODEL DIR RUNS/vit/baseline-set/seed100 [--steps 3]

MODEL is a folder that transformers saved. PyTorch reads the files itself (Pillow and MODEL's image
processor) and its weights from MODEL; of the run it takes the head, the rates, and which images make a batch:
each of its own images is the one nearest to that of the run. Needs torch, transformers, Pillow.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

# Losses of two f32 programs, whose decoders of JPEG round differently.
TOLERANCE = 1e-3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--binary", default=f"{target}/release/finetune")
    return parser.parse_args()


def own_images(options):
    """Every training image as transformers prepares it, and its class."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(options.model, use_fast=False)
    root = options.data / "train" if (options.data / "train").is_dir() else options.data
    classes = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    images, labels = [], []
    for label, name in enumerate(classes):
        for file in sorted((root / name).rglob("*.jp*g")):
            image = Image.open(file).convert("RGB")
            images.append(processor(image, return_tensors="pt")["pixel_values"][0])
            labels.append(label)
    return torch.stack(images), torch.tensor(labels)


def batches(case, steps):
    """The batches of the run out of PyTorch's own images, and how far these are from the run's."""
    images, labels = case["own"]
    worst, mean, found = 0.0, 0.0, []
    for step in range(steps):
        theirs = case[f"batch{step}/images"]
        distances = (theirs[:, None] - images[None]).abs().mean((2, 3, 4))
        nearest = distances.argmin(1)
        targets = case[f"batch{step}/targets"]
        if not (targets.argmax(1) == labels[nearest]).all():
            sys.exit(f"batch {step}: the nearest images are of other classes")
        worst = max(worst, (theirs - images[nearest]).abs().max().item())
        mean = max(mean, distances.min(1).values.max().item())
        found.append((images[nearest], targets))
    return worst, mean, found


def train(options, case, fit, steps, found):
    """The losses of the steps in PyTorch."""
    import torch
    from transformers import ViTForImageClassification

    classes = case["parameter/head.bias"].shape[0]
    model = ViTForImageClassification.from_pretrained(
        options.model, num_labels=classes, ignore_mismatched_sizes=True
    ).float().train()
    with torch.no_grad():
        model.classifier.weight.copy_(case["parameter/head.weight"])
        model.classifier.bias.copy_(case["parameter/head.bias"])
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        table = name.endswith(("cls_token", "position_embeddings"))
        (matrices if parameter.dim() > 1 and not table else others).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": fit["groups"]["weight_decay"]},
            {"params": others, "weight_decay": 0.0},
        ],
        betas=(fit["adamw"]["beta1"], fit["adamw"]["beta2"]), eps=fit["adamw"]["eps"],
    )  # fmt: skip
    losses = []
    for step, (images, targets) in zip(steps, found, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = step["rate"]
        logits = model(pixel_values=images).logits
        loss = torch.nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        if fit["clip"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), fit["clip"])
        optimizer.step()
        losses.append(loss.item())
    return losses


def main():
    options = arguments()
    from safetensors.torch import load_file

    job = json.loads((options.run / "run.json").read_text())["job"]
    groups, augment = job["fit"]["groups"], job["task"]["images"]["augment"]
    moved = augment["crop_scale"] or augment["flip"] or augment["rand_augment"]
    if groups["table_rate"] != 1.0 or groups.get("rates") or moved:
        sys.exit("takes runs of arm baseline without augmentation and with one learning rate for all layers")
    with (options.run / "metrics.jsonl").open() as lines:
        events = [json.loads(line) for line in lines]
    steps = [event for event in events if event.get("event") == "step"][: options.steps]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "case.safetensors"
        command = [options.binary, "case", "--run", options.run, "--out", path, "--batches", len(steps)]
        subprocess.run([*map(str, command)], check=True)
        case = load_file(path)
    case["own"] = own_images(options)
    worst, mean, found = batches(case, len(steps))
    print(f"images: at most {worst:.3f} apart, {mean:.5f} in the mean of the worst, in normalised units")
    losses = train(options, case, job["fit"], steps, found)
    for loss, step in zip(losses, steps, strict=True):
        print(f"step {step['step']}: PyTorch {loss:.6f}, ours {step['loss']:.6f}")
    worst = max(abs(loss - step["loss"]) for loss, step in zip(losses, steps, strict=True))
    print(f"{len(steps)} steps: losses differ by at most {worst:.1e}")
    same = [(case[f"batch{i}/images"], case[f"batch{i}/targets"]) for i in range(len(steps))]
    own = train(options, case, job["fit"], steps, same)
    apart = max(abs(loss - step["loss"]) for loss, step in zip(own, steps, strict=True))
    print(f"from the images of the run: by at most {apart:.1e}")
    if worst > TOLERANCE:
        sys.exit(f"more than {TOLERANCE}")


if __name__ == "__main__":
    main()
