"""Writes fixture/data: a data set of images as `datasets` writes it for the hub, of the files in src/image/fixture.

    python make_fixture.py     # needs datasets, pillow
"""

from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image, Value

HERE = Path(__file__).resolve().parent
FILES = HERE.parents[2] / "src" / "image" / "fixture" / "files"

FEATURES = Features({"id": Value("string"), "image": Image(), "label": ClassLabel(names=["grey", "colour"])})

# With their classes, class by class.
TRAIN = [("grey.jpg", 0), ("one-bit.png", 0), ("rgb.png", 1), ("rgb.jpg", 1), ("lossy.webp", 1)]
TEST = [("grey.jpg", 0), ("palette.png", 1)]

for part, rows in [("train", TRAIN), ("test", TEST)]:
    columns = {
        "id": [name for name, _ in rows],
        "image": [{"bytes": (FILES / name).read_bytes(), "path": name} for name, _ in rows],
        "label": [label for _, label in rows],
    }
    path = HERE / "fixture" / "data" / f"{part}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=FEATURES).to_parquet(path)
