"""Fine-tunes a BERT in PyTorch as a run of `finetune` did, and compares losses and speed.

    cargo build --release --bin finetune
    target/release/finetune --init MODEL --task ... --arms baseline --seeds 1 --set dropout=0 --out RUNS
    python scripts/compare_finetune.py MODEL RUNS/bert/baseline-set/seed100 [--steps 20]
    python scripts/compare_finetune.py MODEL RUNS/bert/baseline-set/seed* --whole

From the same parameters (head included), batches, learning rates and optimiser. First PyTorch takes the steps
and its losses must be those that the run recorded; then both take the steps alone, in turns, on the
same number of threads, and the medians of their times are printed. With --whole PyTorch takes all
steps of every run, and the accuracies on the dev set are compared: means over the runs, and the 95 %
interval of their difference if both were drawn from one distribution. Needs torch, transformers, SciPy.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

# Losses of two f32 programs drift apart with the steps.
TOLERANCE = 1e-3
WARM = 2


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("runs", type=pathlib.Path, nargs="+")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", default=f"{target}/release/finetune")
    return parser.parse_args()


def build(options, case, fit):
    """The PyTorch model with the run's parameters, and its optimiser."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    settings = BertConfig.from_pretrained(options.model)
    settings.num_labels = case["parameter/classifier.bias"].shape[0]
    settings.hidden_dropout_prob = settings.attention_probs_dropout_prob = 0.0
    settings._attn_implementation = "sdpa"
    model = BertForSequenceClassification(settings).float().train()
    groups = {"matrices": [], "others": []}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(case[f"parameter/{name}"])
            matrix = parameter.dim() > 1 and "_embeddings" not in name
            groups["matrices" if matrix else "others"].append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": groups["matrices"], "weight_decay": fit["groups"]["weight_decay"]},
            {"params": groups["others"], "weight_decay": 0.0},
        ],
        betas=(fit["adamw"]["beta1"], fit["adamw"]["beta2"]), eps=fit["adamw"]["eps"],
    )  # fmt: skip
    return model, optimizer


def pytorch(options, case, fit, rates):
    """Losses and times of the steps in PyTorch, and the model that they make."""
    import torch

    model, optimizer = build(options, case, fit)
    losses, times = [], []
    for step, rate in enumerate(rates):
        batch = {key: case[f"batch{step}/{key}"] for key in ("ids", "types", "mask", "labels")}
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(
            input_ids=batch["ids"].long(), token_type_ids=batch["types"].long(),
            attention_mask=batch["mask"].long(), labels=batch["labels"].long(),
        ).loss  # fmt: skip
        loss.backward()
        if fit["clip"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), fit["clip"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        times.append(1e3 * (time.perf_counter() - start))
    return losses, times, model


def accuracy(model, case):
    """Share of right labels of the dev set, in %."""
    import torch

    model.eval()
    right = rows = i = 0
    with torch.no_grad():
        while f"dev{i}/ids" in case:
            batch = {key: case[f"dev{i}/{key}"].long() for key in ("ids", "types", "mask", "labels")}
            logits = model(
                input_ids=batch["ids"], token_type_ids=batch["types"], attention_mask=batch["mask"]
            ).logits
            right += (logits.argmax(-1) == batch["labels"]).sum().item()
            rows += len(batch["labels"])
            i += 1
    return 100 * right / rows


def ours(options, run):
    """Median time of a step of the run, alone."""
    environment = dict(os.environ, RAYON_NUM_THREADS=str(options.threads))
    command = [options.binary, "time", str(run)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        answer = process.stdout.read()
    return json.loads(answer)["ms_per_step"]


def read(options, run):
    """Training settings and steps of a run, and what its binary says of its start."""
    from safetensors.torch import load_file

    job = json.loads((run / "run.json").read_text())["job"]
    with (run / "metrics.jsonl").open() as lines:
        events = [json.loads(line) for line in lines]
    network, groups = job["network"]["encoder"]["bert"], job["fit"]["groups"]
    plain = network["conditioning"]["method"] == "none" and network["dropout"] == 0.0
    one_rate = groups["table_rate"] == 1.0 and not groups.get("rates")
    if not plain or not one_rate or not job["task"]["texts"]["data"]["classes"]:
        sys.exit("takes runs of arm baseline on classes, with --set dropout=0 and one learning rate for all layers")
    steps = [event for event in events if event.get("event") == "step"]
    steps = steps if options.whole else steps[: options.steps]
    if len(steps) <= WARM:
        sys.exit(f"{len(steps)} steps; more than {WARM} are needed")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "case.safetensors"
        command = [options.binary, "case", "--run", run, "--out", path, "--dev"]
        subprocess.run([*map(str, command), "--batches", str(len(steps))], check=True)
        return job["fit"], steps, load_file(path)


def compare_whole(options):
    """Dev accuracy of whole runs."""
    from scipy.stats import t

    mine, theirs = [], []
    for run in options.runs:
        summary = json.loads((run / "summary.json").read_text())
        if "dev_accuracy" not in summary["metrics"]:
            sys.exit(f"{run}: no accuracy on one dev set")
        fit, steps, case = read(options, run)
        _, _, model = pytorch(options, case, fit, [step["rate"] for step in steps])
        mine.append(summary["metrics"]["dev_accuracy"])
        theirs.append(accuracy(model, case))
        print(f"{run.name}: ours {mine[-1]:.2f}, PyTorch {theirs[-1]:.2f}", flush=True)
    n = len(mine)
    means = f"means over {n}: ours {statistics.mean(mine):.2f}, PyTorch {statistics.mean(theirs):.2f}"
    if n < 2:
        return print(means)
    pooled = ((statistics.variance(mine) + statistics.variance(theirs)) / 2) ** 0.5
    half = t.ppf(0.975, 2 * n - 2) * pooled * (2 / n) ** 0.5
    difference = statistics.mean(mine) - statistics.mean(theirs)
    print(f"{means}; difference {difference:+.2f}, pooled interval ±{half:.2f}")
    if abs(difference) > half:
        sys.exit("the means differ by more than chance")


def main():
    options = arguments()
    import torch

    torch.set_num_threads(options.threads)
    if options.whole:
        return compare_whole(options)
    for run in options.runs:
        compare_steps(options, run)


def compare_steps(options, run):
    """Losses and times of the first steps of a run."""
    fit, steps, case = read(options, run)
    rates = [step["rate"] for step in steps]
    losses = pytorch(options, case, fit, rates)[0]
    worst = max(abs(a - step["loss"]) for a, step in zip(losses, steps, strict=True))
    print(f"{len(steps)} steps: losses differ by at most {worst:.1e}")
    if worst > TOLERANCE:
        sys.exit(f"more than {TOLERANCE}: {losses} and {[step['loss'] for step in steps]}")
    theirs, mine = [], []
    for _ in range(options.rounds):
        theirs.append(statistics.median(pytorch(options, case, fit, rates)[1][WARM:]))
        mine.append(ours(options, run))
    theirs, mine = statistics.median(theirs), statistics.median(mine)
    print(f"PyTorch {theirs:.0f} ms, ours {mine:.0f} ms a step; PyTorch / ours {theirs / mine:.2f}")


if __name__ == "__main__":
    main()
