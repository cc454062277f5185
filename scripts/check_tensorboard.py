#!/usr/bin/env python3
"""An event file as TensorBoard reads it, beside what is expected of it.

    scripts/check_tensorboard.py FOLDER EXPECTED

FOLDER holds the event file, EXPECTED is JSON: under "scalars" and "histograms" each tag with its [step, value] or
[step, values]. `cargo test -p conditioned-report` leaves both in tmp/tensorboard of the build folder, the latter
as expected.json. Needs tensorboard. Exit 1 if a tag, a step, a scalar in single precision, or count, least,
greatest, sum or a bucket of a histogram differs; sums may differ by rounding.
"""

import json
import math
import pathlib
import sys

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

folder, path = sys.argv[1:3]
expected = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
run = EventAccumulator(folder, size_guidance={"scalars": 0, "histograms": 0}).Reload()
wrong = []


def check(name, found, wanted):
    if found != wanted:
        wrong.append(name)
        print(f"{name}: {found} instead of {wanted}")


for kind in ("scalars", "histograms"):
    check(kind, sorted(run.Tags()[kind]), sorted(expected[kind]))

for tag in run.Tags()["scalars"]:
    found = [(event.step, event.value) for event in run.Scalars(tag)]
    wanted = [(step, float(np.float32(value))) for step, value in expected["scalars"].get(tag, [])]
    check(tag, found, wanted)
    print(f"{tag}: {len(found)} scalars, steps {found[0][0]} to {found[-1][0]}")

for tag in run.Tags()["histograms"]:
    events, wanted = run.Histograms(tag), expected["histograms"].get(tag, [])
    check(tag, [event.step for event in events], [step for step, _ in wanted])
    for event, (step, values) in zip(events, wanted):
        name, found = f"{tag}, step {step}", event.histogram_value
        check(f"{name}, count", found.num, len(values))
        check(f"{name}, least and greatest", (found.min, found.max), (min(values), max(values)))
        total, rounding = math.fsum(values), sys.float_info.epsilon * len(values)
        if abs(found.sum - total) > rounding * math.fsum(map(abs, values)):
            check(f"{name}, sum", found.sum, total)
        # Bucket i holds what is not below limit i - 1 and is below limit i; the last one its own limit too.
        edges = np.array([-math.inf, *found.bucket_limit])
        edges[-1] = math.nextafter(edges[-1], math.inf)
        check(f"{name}, buckets", list(found.bucket), list(np.histogram(values, edges)[0]))
        print(f"{name}: {found.num:.0f} values, {found.min:g} to {found.max:g}, sum {found.sum:g}, "
              f"{len(found.bucket)} buckets")

print("differs" if wrong else "agrees")
sys.exit(bool(wrong))
