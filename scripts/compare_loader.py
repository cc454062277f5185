"""Images per second of our loader and of torchvision's on one folder of image files, in turns.

    cargo build --release --example load-images
    python scripts/compare_loader.py FOLDER [--workers 1] [--rounds 5]

FOLDER has a folder for each class in FOLDER/train. Both decode, resize (bicubic, antialiased), cut out 224 x 224,
normalise and make batches of 32, in as many workers; "training" takes random resized crops and flips
instead. Pillow decodes for torchvision, as its ImageFolder has it. Needs torch, torchvision, Pillow.
"""

import argparse
import os
import pathlib
import platform
import statistics
import subprocess
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--binary", default=f"{target}/release/examples/load-images")
    return parser.parse_args()


def torchvision_speed(options, training):
    import torch
    from torchvision import datasets, transforms
    from torchvision.transforms import InterpolationMode

    torch.set_num_threads(1)
    bicubic = InterpolationMode.BICUBIC
    if training:
        first = [
            transforms.RandomResizedCrop(224, interpolation=bicubic),
            transforms.RandomHorizontalFlip(),
        ]
    else:
        first = [transforms.Resize(256, interpolation=bicubic), transforms.CenterCrop(224)]
    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    steps = transforms.Compose([*first, transforms.ToTensor(), normalise])
    data = datasets.ImageFolder(options.folder / "train", steps)
    loader = torch.utils.data.DataLoader(
        data, batch_size=32, shuffle=training, num_workers=options.workers, persistent_workers=True
    )
    for epoch in range(options.epochs):
        if epoch == 1:
            start, images = time.perf_counter(), 0
        for _, labels in loader:
            if epoch > 0:
                images += len(labels)
    return images / (time.perf_counter() - start)


def our_speed(options, training):
    command = [options.binary, "--data", options.folder, "--workers", options.workers]
    command += ["--epochs", options.epochs] + (["--training"] if training else [])
    return float(subprocess.run([*map(str, command)], check=True, capture_output=True).stdout)


def processor():
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main():
    options = arguments()
    print(f"{processor()}, {options.workers} workers, medians of {options.rounds} rounds, images a second")
    for training in [False, True]:
        theirs, ours = [], []
        for _ in range(options.rounds):
            theirs.append(torchvision_speed(options, training))
            ours.append(our_speed(options, training))
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        kind = "training" if training else "evaluation"
        print(
            f"{kind}: torchvision {statistics.median(theirs):.0f}, ours {statistics.median(ours):.0f}, "
            f"ours / torchvision {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
