"""Writes fixture.json: scores of predictions by scikit-learn and SciPy, degenerate ones included.

    python make_fixture.py     # needs scikit-learn and SciPy
"""

import json
import math
import warnings
from pathlib import Path

import numpy
import scipy
import sklearn
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


def number(value):
    """NaN, an undefined value, as null."""
    value = float(value)
    return None if math.isnan(value) else value


def classes(predictions, labels):
    scores = {
        "accuracy": number(accuracy_score(labels, predictions)),
        "matthews": number(matthews_corrcoef(labels, predictions)),
    }
    if max(*predictions, *labels) <= 1:
        scores["f1"] = number(f1_score(labels, predictions, zero_division=0.0))
    return {"predictions": predictions, "labels": labels, "scores": scores}


def numbers(predictions, labels):
    x, y = numpy.array(predictions), numpy.array(labels)
    scores = {"pearson": number(pearsonr(x, y)[0]), "spearman": number(spearmanr(x, y)[0])}
    return {"predictions": predictions, "labels": labels, "scores": scores}


def main():
    warnings.simplefilter("ignore")
    rng = numpy.random.default_rng(0)
    cases = []
    for n, k in [(40, 2), (100, 2), (7, 2), (60, 3), (90, 5)]:
        labels = rng.integers(k, size=n)
        noise = rng.integers(k, size=n)
        predictions = numpy.where(rng.random(n) < 0.6, labels, noise)
        cases.append(classes(predictions.tolist(), labels.tolist()))
    zeros, ones, mixed = [0] * 6, [1] * 6, [0, 1, 1, 0, 1, 0]
    for pair in [(zeros, mixed), (mixed, zeros), (ones, mixed), (zeros, zeros), (ones, ones), (zeros, ones),
                 (mixed, mixed), ([1 - x for x in mixed], mixed), ([1], [1]), ([2, 2, 2], [2, 2, 2])]:
        cases.append(classes(*pair))
    for n in [3, 20, 100]:
        # Whole thirty-seconds: exact in f32, with many equal values.
        labels = rng.integers(0, 160, size=n) / 32
        predictions = numpy.round((labels + rng.normal(size=n)) * 32) / 32
        cases.append(numbers(predictions.tolist(), labels.tolist()))
        cases.append(numbers((numpy.round(predictions) + 0.0).tolist(), numpy.round(labels).tolist()))
    rising = [0.0, 1.0, 2.5, 4.0, 5.0]
    cases += [numbers(rising, rising), numbers(rising[::-1], rising), numbers([x**3 for x in rising], rising),
              numbers([0.5] * 5, rising), numbers(rising, [0.25] * 5), numbers([0.5] * 5, [0.25] * 5),
              numbers([1e6 + x for x in rising], rising), numbers([1.0, 2.0], [3.0, 1.0])]
    fixture = {
        "versions": {"scikit-learn": sklearn.__version__, "scipy": scipy.__version__},
        "cases": cases,
    }
    path = Path(__file__).with_name("fixture.json")
    path.write_text(json.dumps(fixture, separators=(",", ":")) + "\n")
    path.chmod(0o644)


main()
