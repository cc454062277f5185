#!/usr/bin/env python3
"""Copies the generated tables between the markers of the README files.

    scripts/insert_tables.py [TABLE RUNS ...]

With a table (table1_imagenet, table5_tinystories) and RUNS (the --out folders of finished runs) their
results are first copied to experiments/TABLE/results/<preset>. A test fails while a README and its
table differ.
"""

import csv
import pathlib
import re
import shutil
import sys

root = pathlib.Path(__file__).resolve().parent.parent
files = ["results.csv", "timings.csv", "table.md", "table.tex", "curves.svg", "curves.png", "stories.md"]

for run in map(pathlib.Path, sys.argv[2:]):
    with open(run / "results.csv") as lines:
        preset = next(csv.DictReader(lines))["preset"]
    target = root / "experiments" / sys.argv[1] / "results" / preset
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        if (run / file).exists():
            shutil.copyfile(run / file, target / file)

for results in sorted(root.glob("experiments/table*/results")):
    name = results.parent.name.split("_")[0]
    for readme in [root / "README.md", results.parent / "README.md"]:
        text = readme.read_text()
        for folder in sorted(results.iterdir()):
            table = (folder / "table.md").read_text().strip()
            marker = re.compile(rf"(<!-- {name} {re.escape(folder.name)} -->\n).*?(<!-- end -->)", re.S)
            text = marker.sub(lambda m: f"{m[1]}\n{table}\n\n{m[2]}", text)
        readme.write_text(text)
