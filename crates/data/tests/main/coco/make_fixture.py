"""Writes masks.json and scores.json: masks of polygons, boxes and runs, and scores of detections, by pycocotools.

    python make_fixture.py     # needs pycocotools
"""

import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

import numpy
from pycocotools import mask as api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def text(rle):
    """The string of a compressed mask."""
    return rle["counts"].decode()


def described(rle):
    return {"counts": text(rle), "area": int(api.area(rle)), "bbox": api.toBbox(rle).tolist()}


def polygon(rng, height, width, corners):
    """A closed curve around a centre, partly outside the image."""
    angles = numpy.sort(rng.random(corners)) * 2 * numpy.pi
    radii = rng.uniform(0.1, 0.6, corners) * min(height, width)
    centre = rng.random(2) * [width, height]
    points = centre + radii[:, None] * numpy.stack([numpy.cos(angles), numpy.sin(angles)], 1)
    return numpy.round(points, int(rng.integers(4))).ravel().tolist()


def masks(rng):
    drawn, pairs = [], []
    for i in range(60):
        height, width = (int(n) for n in rng.integers(1, 70, size=2))
        parts = [polygon(rng, height, width, int(rng.integers(3, 12))) for _ in range(1 + i % 3)]
        if i % 5 == 0:
            # Closed by the first corner again; any order of corners; a corner twice.
            parts[0] = parts[0] + parts[0][:2]
            parts[-1] = rng.permutation(numpy.array(parts[-1]).reshape(-1, 2)).ravel().tolist()
            parts[-1] = parts[-1][:2] + parts[-1]
        if i % 7 == 0:
            # Whole numbers, half and fifths of pixels: ties of rounding.
            parts = [(numpy.round(numpy.array(part) * 10) / 10).tolist() for part in parts]
        rle = api.merge(api.frPyObjects(parts, height, width))
        drawn.append({"size": [height, width], "polygons": parts, **described(rle)})
    for _ in range(30):
        height, width = (int(n) for n in rng.integers(1, 50, size=2))
        box = [rng.uniform(-0.3, 1) * width, rng.uniform(-0.3, 1) * height, *(rng.random(2) * [width, height])]
        box = numpy.round(box, int(rng.integers(3))).tolist()
        rle = api.frPyObjects(numpy.array([box]), height, width)[0]
        drawn.append({"size": [height, width], "box": box, **described(rle)})
    for i in range(30):
        height, width = (int(n) for n in rng.integers(1, 30, size=2))
        bits = [rng.random((height, width)) < rng.random() for _ in range(2)]
        if i % 4:
            # Blocks, which are long runs.
            bits = [numpy.kron(b, numpy.ones((5, 5)))[:height, :width] > 0 for b in bits]
        if i % 10 == 0:
            bits[1][:] = i % 20 == 0
        both = [api.encode(numpy.asfortranarray(b.astype(numpy.uint8))) for b in bits]
        pairs.append({
            "size": [height, width],
            "masks": [{"bits": "".join(str(int(b)) for b in m.ravel()), **described(r)} for m, r in zip(bits, both)],
            "union": text(api.merge(both)),
            "iou": [api.iou([both[0]], [both[1]], [crowd]).item() for crowd in (0, 1)],
        })
    boxes = numpy.round(rng.uniform(0, 20, (24, 4)), 1)
    boxes[:8] = numpy.round(boxes[:8])
    ious = [api.iou(boxes, boxes, [crowd] * len(boxes)).tolist() for crowd in (0, 1)]
    return {"drawn": drawn, "pairs": pairs, "boxes": boxes.tolist(), "box_ious": ious}


def main():
    folder = Path(__file__).parent
    rng = numpy.random.default_rng(0)
    for name, content in [("masks", masks(rng)), ("scores", {"cases": list(scores(rng))})]:
        path = folder / f"{name}.json"
        content = {"versions": {"pycocotools": version("pycocotools"), "numpy": numpy.__version__}, **content}
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
        path.chmod(0o644)


def segmentation(rle, parts, kind):
    """A mask in one of the forms of COCO files."""
    if kind == 0:
        return parts
    if kind == 1:
        return {"size": rle["size"], "counts": text(rle)}
    bits = api.decode(rle).ravel(order="F")
    changes = numpy.flatnonzero(numpy.diff(numpy.concatenate([[0], bits]))).tolist() + [bits.size]
    return {"size": rle["size"], "counts": numpy.diff([0, *changes]).tolist()}


def shape(rng, height, width):
    """A polygon of any size from a few pixels to most of the image, and its mask."""
    while True:
        scale = rng.choice([0.15, 0.4, 1.0])
        part = numpy.array(polygon(rng, height, width, int(rng.integers(4, 9)))).reshape(-1, 2)
        centre = numpy.clip(part.mean(0), [0, 0], [width, height])
        part = numpy.clip(numpy.round((part - centre) * scale + centre, 1), 0, [width, height])
        parts = [part.ravel().tolist()]
        rle = api.merge(api.frPyObjects(parts, height, width))
        if api.area(rle) > 0:
            return parts, rle


def moved(rng, rle, height, width):
    """A mask by a few pixels elsewhere, often the same."""
    by = rng.integers(-2, 3, size=2) if rng.random() < 0.7 else (0, 0)
    return api.encode(numpy.asfortranarray(numpy.roll(api.decode(rle), by, axis=(0, 1))))


def case(rng, images, categories, objects, detections, crowds=0.15, tied=1):
    """Objects in images, and detections near and far from them: boxes and masks."""
    ids = rng.permutation(1000)[: len(images)] + 5
    dataset = {
        "images": [
            {"id": int(i), "file_name": f"{i}.png", "height": h, "width": w} for i, (h, w) in zip(ids, images)
        ],
        "categories": [{"id": c, "name": f"category {c}"} for c in categories],
        "annotations": [],
    }
    boxes, segments = [], []

    def detect(image, category, rle, score):
        score = round(float(score), tied)
        box = api.toBbox(rle).tolist()
        if rng.random() < 0.5:
            # Half of a box, three quarters: exactly at a threshold; 32 x 32: at a limit of size.
            box[2] *= rng.choice([0.5, 0.75, 0.8, 1.0])
        if rng.random() < 0.05:
            box[2:] = [32, 32]
        one = {"image_id": image["id"], "category_id": category, "score": score}
        boxes.append({**one, "bbox": box})
        segments.append({**one, "segmentation": {"size": rle["size"], "counts": text(rle)}})

    for n in range(objects):
        # The last image and the last category have no object.
        image = dataset["images"][rng.integers(max(len(images) - 1, 1))]
        category = categories[rng.integers(max(len(categories) - 1, 1))]
        height, width = image["height"], image["width"]
        parts, rle = shape(rng, height, width)
        area = float(api.area(rle)) * (1 if rng.random() < 0.8 else rng.uniform(0.5, 1.5))
        if rng.random() < 0.1:
            area = rng.choice([1024.0, 9216.0])
        dataset["annotations"].append({
            "id": 1000 - n,
            "image_id": image["id"],
            "category_id": category,
            "bbox": api.toBbox(rle).tolist(),
            "area": area,
            "iscrowd": int(rng.random() < crowds),
            "segmentation": segmentation(rle, parts, n % 3),
        })
        for _ in range(rng.integers(4)):
            detect(image, category, moved(rng, rle, height, width), rng.random())
    for _ in range(detections):
        image = dataset["images"][rng.integers(len(images))]
        category = categories[rng.integers(len(categories))]
        detect(image, category, shape(rng, image["height"], image["width"])[1], rng.random())
    order = rng.permutation(len(boxes))
    boxes, segments = [boxes[i] for i in order], [segments[i] for i in order]
    return {
        "dataset": dataset,
        "boxes": {"results": boxes, **evaluated(dataset, boxes, "bbox")},
        "masks": {"results": segments, **evaluated(dataset, segments, "segm")},
    }


def evaluated(dataset, results, kind):
    """The twelve numbers of COCOeval and AP by category; null where it has -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(dataset))
        truth.createIndex()
        if results:
            found = truth.loadRes(json.loads(json.dumps(results)))
        else:
            # loadRes looks at the first one.
            found = COCO()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    by_category = [values[values > -1] for values in numpy.moveaxis(precision, 2, 0)]
    return {
        "scores": [None if value == -1 else float(value) for value in evaluation.stats],
        "by_category": [float(values.mean()) if values.size else None for values in by_category],
    }


def scores(rng):
    sizes = [(160, 160), (120, 200), (40, 50), (150, 140), (64, 64), (180, 150), (32, 33), (110, 130)]
    yield case(rng, sizes, [3, 7, 1, 90], 40, 40)
    yield case(rng, sizes[:4], [2, 5], 20, 20, tied=6)
    # More than a hundred of one category in one image, small ones.
    yield case(rng, [(40, 40)], [1], 30, 120, tied=2)
    yield case(rng, sizes[:3], [1], 8, 0, crowds=0)
    # Crowds alone; no detections; objects alone; nothing at all.
    yield case(rng, sizes[:3], [1, 2, 3], 12, 12, crowds=1)
    empty = case(rng, sizes[:3], [1, 2], 6, 0)
    dataset = empty["dataset"]
    yield {"dataset": dataset, **{name: {"results": [], **evaluated(dataset, [], kind)}
                                  for name, kind in [("boxes", "bbox"), ("masks", "segm")]}}
    yield case(rng, sizes[:2], [1], 0, 10)


main()
