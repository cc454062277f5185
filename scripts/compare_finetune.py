"""Fine-tunes a BERT in PyTorch as a run of `finetune` did, and compares losses and speed.

    cargo build --release --bin finetune
    target/release/finetune --init MODEL --task ... --arms baseline --seeds 1 --set dropout=0 --out RUNS
    python scripts/compare_finetune.py MODEL RUNS/baseline/seed100 [--steps 20]

From the same parameters (head included), batches, rates and optimiser. First PyTorch takes the steps
and its losses must be those that the run recorded; then both take the steps alone, in turns, on the
same number of threads, and the medians of their times are printed. Needs torch and transformers.
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
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", default=f"{target}/release/finetune")
    return parser.parse_args()


def build(options, case, config):
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
    fit = config["fit"]
    optimizer = torch.optim.AdamW(
        [
            {"params": groups["matrices"], "weight_decay": fit["groups"]["weight_decay"]},
            {"params": groups["others"], "weight_decay": 0.0},
        ],
        betas=(fit["adamw"]["beta1"], fit["adamw"]["beta2"]), eps=fit["adamw"]["eps"],
    )  # fmt: skip
    return model, optimizer


def pytorch(options, case, config, rates):
    """Losses and times of the steps in PyTorch."""
    import torch

    model, optimizer = build(options, case, config)
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
        if config["fit"]["clip"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config["fit"]["clip"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        times.append(1e3 * (time.perf_counter() - start))
    return losses, times


def ours(options, threads):
    """Median time of a step of the run, alone."""
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    command = [options.binary, "time", str(options.run)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        answer = process.stdout.read()
    return json.loads(answer)["ms_per_step"]


def main():
    options = arguments()
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(options.threads)
    config = json.loads((options.run / "config.json").read_text())
    with (options.run / "metrics.jsonl").open() as lines:
        events = [json.loads(line) for line in lines]
    network = config["network"]
    plain = network["conditioning"]["method"] == "none" and network["dropout"] == 0.0
    if not plain or config["fit"]["groups"].get("rates") or not config["data"]["classes"]:
        sys.exit("takes a run of arm baseline on classes, with --set dropout=0 and one rate for all layers")
    steps = [event for event in events if event.get("event") == "step"][: options.steps]
    if len(steps) <= WARM:
        sys.exit(f"{len(steps)} steps; more than {WARM} are needed")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "case.safetensors"
        command = [options.binary, "case", "--run", options.run, "--out", path]
        subprocess.run([*map(str, command), "--batches", str(len(steps))], check=True)
        case = load_file(path)
    rates = [step["rate"] for step in steps]
    losses, _ = pytorch(options, case, config, rates)
    worst = max(abs(a - step["loss"]) for a, step in zip(losses, steps, strict=True))
    print(f"{len(steps)} steps: losses differ by at most {worst:.1e}")
    if worst > TOLERANCE:
        sys.exit(f"more than {TOLERANCE}: {losses} and {[step['loss'] for step in steps]}")
    theirs, mine = [], []
    for _ in range(options.rounds):
        theirs.append(statistics.median(pytorch(options, case, config, rates)[1][WARM:]))
        mine.append(ours(options, options.threads))
    theirs, mine = statistics.median(theirs), statistics.median(mine)
    print(f"PyTorch {theirs:.0f} ms, ours {mine:.0f} ms a step; PyTorch / ours {theirs / mine:.2f}")


if __name__ == "__main__":
    main()
