#!/usr/bin/env python3
"""Copies the generated tables of table 1 between the markers of the two README files.

    scripts/insert_tables.py [RUNS]

With RUNS (the --out folder of a finished run) its results are first copied to
experiments/table1_imagenet/results/<preset>. A test fails while a README and its table differ.
"""

import csv
import pathlib
import re
import shutil
import sys

root = pathlib.Path(__file__).resolve().parent.parent
results = root / "experiments/table1_imagenet/results"
files = ["results.csv", "timings.csv", "table.md", "table.tex", "curves.svg", "curves.png"]

for run in map(pathlib.Path, sys.argv[1:]):
    with open(run / "results.csv") as lines:
        preset = next(csv.DictReader(lines))["preset"]
    target = results / preset
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(run / file, target / file)

for readme in [root / "README.md", root / "experiments/table1_imagenet/README.md"]:
    text = readme.read_text()
    for folder in sorted(results.iterdir()):
        table = (folder / "table.md").read_text().strip()
        marker = re.compile(rf"(<!-- table1 {re.escape(folder.name)} -->\n).*?(<!-- end -->)", re.S)
        text = marker.sub(lambda m: f"{m[1]}\n{table}\n\n{m[2]}", text)
    readme.write_text(text)
