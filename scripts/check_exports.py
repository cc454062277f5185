#!/usr/bin/env python3
"""Every kind of export computes in transformers or timm what the run computed, from text or pixels to logits.

    cargo build --release --bins --examples && scripts/check_exports.py [FOLDER OF THE BINARIES]

Makes tiny random checkpoints, trains each for a few steps with and without conditioned tokens, exports the
runs, and compares the logits of `--example logits` with those of the exported folder, read by the Auto classes of
transformers (Crammed BERT, which transformers lacks: by crates/models/tests/suite/crammed_parity/reference.py).

Needs torch, transformers 5, timm and safetensors. Exit 1 if a difference exceeds 1e-4 of the largest logit.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile

import timm
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.utils import logging
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARIES = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release").resolve()
sys.path.insert(0, str(ROOT / "crates/models/tests/suite/crammed_parity"))
import reference  # noqa: E402

logging.set_verbosity_error()
logging.disable_progress_bar()

# In units of the largest logit: f32 sums in another order.
TOLERANCE = 1e-4

# Runs of all kinds.
RUNS = 66

WORDS = "the a dog cat river house bird was is sat ran old new sad good bad on in to and Caf\u00e9 na\u00efve".split()
# What tokenizers treat in ways of their own.
TEXTS = [
    "The dog ran to the RIVER .",
    "a caf\u00e9 , na\u00efve and old",
    "unknownwords zzz 123",
    "the [SEP] bird [MASK] sat on the house",
    "\u6771\u4eac \u00e9\u0301 \ufb01",
    "the dog " * 60,
]


def run(binary, *arguments):
    command = [BINARIES / binary, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{binary} {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")


def vocabulary(cased):
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789.,'\u6771")
    words = WORDS + [word.capitalize() for word in WORDS] if cased else [w.lower() for w in WORDS]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys(special + letters + ["##" + letter for letter in letters] + words))


def bert(folder, kind):
    """A random BERT; its tokenizer is a vocab.txt alone, or a cased one with its settings."""
    torch.manual_seed(0)
    vocab = vocabulary(kind == "cased")
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    if kind == "cased":
        settings = {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    elif kind == "added":
        (folder / "added_tokens.json").write_text(json.dumps({"riverhouse": len(vocab)}))
        model = BertModel.from_pretrained(folder)
        model.resize_token_embeddings(len(vocab) + 1, mean_resizing=False)
        model.save_pretrained(folder)
    elif kind == "fast":
        BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def gpt2(folder, padded):
    """A random GPT-2 with a byte-level BPE, its end of text called [EOS], and rows without a token."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["[EOS]"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[EOS]")
    fast.save_pretrained(folder)
    config = GPT2Config(
        vocab_size=len(fast) + padded, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def write_tasks(folder, pairs):
    """A task of classes, in train.csv and dev.csv."""
    draw = random.Random(0)
    sentence = lambda: " ".join(draw.choices(WORDS, k=6))  # noqa: E731
    for name, count in [("train", 64), ("dev", 16)]:
        rows = ["text,text2,label" if pairs else "text,label"]
        for i in range(count):
            rows.append(",".join([sentence()] + ([sentence()] if pairs else []) + [str(i % 3)]))
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def logits_here(folder, run_folder, lines):
    texts, out = folder / "texts.jsonl", folder / "logits.safetensors"
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("examples/logits", "--run", run_folder, "--texts", texts, "--out", out)
    found = load_file(out)
    return [found[f"logits.{i}"] for i in range(len(lines))]


def compare(name, ours, theirs):
    worst = 0.0
    for here, there in zip(ours, theirs, strict=True):
        assert here.shape == there.shape, f"{name}: {here.shape} and {there.shape}"
        assert here.isfinite().all() and there.isfinite().all() and there.abs().max() > 0, name
        worst = max(worst, ((here - there).abs().max() / there.abs().max()).item())
    print(f"{name:<60} {len(ours):>3} inputs, largest difference {worst:.1e}", flush=True)
    return worst <= TOLERANCE


def finished(out):
    """The folders of all finished runs."""
    return sorted(path.parent for path in out.rglob("summary.json") if "search" not in path.parts)


@torch.no_grad()
def check_texts(work):
    for pairs in [False, True]:
        for kind in ["vocab", "cased", "added", "fast"]:
            folder = work / f"bert-{kind}-{pairs}"
            folder.mkdir()
            model = bert(folder / "model", kind)
            write_tasks(folder, pairs)
            run(
                "finetune", "--init", model, "--task", folder / "train.csv", "--dev", folder / "dev.csv",
                "--arms", "baseline,pooled,table", "--seeds", 1, "--set", "epochs=2", "--set", "max_length=48",
                "--set", "learning_rate=1e-3", "--out", folder / "out",
            )  # fmt: skip
            lines = [{"text": text} for text in TEXTS + ["the riverhouse was old"]]
            if pairs:
                lines = [line | {"text2": TEXTS[i % 3]} for i, line in enumerate(lines)]
            for run_folder in finished(folder / "out"):
                export = folder / "exports" / run_folder.parent.name
                run("finetune", "export", "--run", run_folder, "--out", export)
                tokenizer = AutoTokenizer.from_pretrained(export)
                model = AutoModelForSequenceClassification.from_pretrained(export).eval()
                # In one batch: padding takes no part.
                texts = [[line[key] for line in lines] for key in ["text", "text2"][: 1 + pairs]]
                settings = dict(padding=True, truncation=True, return_tensors="pt")
                theirs = list(model(**tokenizer(*texts, **settings)).logits)
                name = f"BERT, {'pairs' if pairs else 'texts'}, {kind}, {run_folder.parent.name}"
                yield compare(name, logits_here(folder, run_folder, lines), theirs)


@torch.no_grad()
def check_glue(work):
    """Masked words and generated pairs, of the published BERT and of Crammed BERT."""
    out = work / "table4"
    run(
        "table4-glue", "--preset", "smoke", "--models", "bert,crammed-bert", "--arms", "baseline,pooled",
        "--set", "learning_rate=1e-3", "--seeds", 1, "--out", out,
    )  # fmt: skip
    for run_folder in finished(out):
        relative = run_folder.relative_to(out)
        config = json.loads((run_folder / "run.json").read_text())["job"]
        is_masked = "masked" in config["task"]
        lines = [{"text": text} for text in TEXTS]
        if not is_masked:
            lines = [line | {"text2": TEXTS[i % 3]} for i, line in enumerate(lines)]
        network = config["network"]["encoder"]
        if "bert" in network:
            export = work / "exports" / relative
            run("table4-glue", "export", "--run", run_folder, "--out", export)
        elif "pooled" in str(relative):
            continue  # The reference has no conditioning.
        else:
            export = run_folder
            p = load_file(run_folder / "model.safetensors")
            heads = network["crammed-bert"]["heads"]
        tokenizer = AutoTokenizer.from_pretrained(export)
        kind = AutoModelForMaskedLM if is_masked else AutoModelForSequenceClassification
        model = kind.from_pretrained(export).eval() if "bert" in network else None
        most = config["task"]["masked"]["window"] if is_masked else config["task"]["texts"]["max_length"]
        theirs = []
        for line in lines:
            texts = [line["text"]] + ([] if is_masked else [line["text2"]])
            # The name of a special token inside a text is text here.
            settings = dict(split_special_tokens=True, truncation=True, max_length=most, return_tensors="pt")
            inputs = tokenizer(*texts, **settings)
            if is_masked:
                inputs["input_ids"][0, 2] = tokenizer.mask_token_id
            if model is not None:
                logits = model(**inputs).logits[0]
            else:
                mask = inputs["attention_mask"].bool()
                hidden = reference.encoder(p, inputs["input_ids"], mask, heads)
                table = p["encoder.embedding.word_embedding.weight"]
                logits = hidden[0] @ table.T if is_masked else reference.classify(p, hidden)[1][0]
            theirs.append(logits[2] if is_masked else logits)
        yield compare(f"{relative}", logits_here(work, run_folder, lines), theirs)


@torch.no_grad()
def check_language(work):
    stories = work / "stories.txt"
    draw = random.Random(1)
    documents = [" ".join(draw.choices(WORDS, k=60)) for _ in range(60)]
    stories.write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    small = ["context=32", "steps=4", "evaluations=2", "batch_size=2", "prefix_lengths=[4,8]", "tune=0.2", "test=0.2",
             "tune_windows=4", "test_windows=4", "prefix_windows=4", "learning_rate=1e-3"]  # fmt: skip
    small = [argument for value in small for argument in ("--set", value)]
    arms = ["--arms", "baseline,pooled,table", "--seeds", 1]
    runs = {"trained": ["--preset", "smoke", *arms]}
    runs["characters"] = [*runs["trained"], "--set", "tokenizer=characters"]
    for padded in [0, 20]:
        model = gpt2(work / f"gpt2-{padded}", padded)
        runs[f"checkpoint, {padded} rows more"] = ["--init", model, "--data", stories, *small, *arms]
    for name, arguments in runs.items():
        out = work / name.replace(" ", "-")
        run("table5-tinystories", *arguments, "--out", out)
        texts = ["The dog ran.", "Once upon a"]
        if name != "characters":
            texts += ["a \u00e9 \U0001f642  b", " leading"]
        for run_folder in finished(out):
            export = work / "exports" / out.name / run_folder.parent.name
            run("table5-tinystories", "export", "--run", run_folder, "--out", export)
            tokenizer = AutoTokenizer.from_pretrained(export)
            model = AutoModelForCausalLM.from_pretrained(export).eval()
            marked = [f"{texts[0]}{tokenizer.eos_token}{texts[1]}"]
            theirs = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts + marked]
            ours = logits_here(work, run_folder, [{"text": text} for text in texts + marked])
            yield compare(f"GPT-2, {name}, {run_folder.parent.name}", ours, theirs)


@torch.no_grad()
def check_images(work):
    out = work / "table1"
    arms = "baseline,pooled,pooled-current,spectral-conditioning"
    run(
        "table1-imagenet", "--preset", "smoke", "--models", "vit,deit", "--arms", arms, "--seeds", 1,
        "--set", "learning_rate=1e-3", "--out", out,
    )  # fmt: skip
    for run_folder in finished(out):
        relative = run_folder.relative_to(out)
        export, file = work / "exports" / relative, work / "images.safetensors"
        run("table1-imagenet", "export", "--layout", "timm", "--run", run_folder, "--out", export / "timm")
        run("table1-imagenet", "export", "--run", run_folder, "--out", export / "transformers")
        run("examples/logits", "--run", run_folder, "--out", file)
        found = load_file(file)
        model = timm.create_model(f"local-dir:{export / 'timm'}", pretrained=True).eval()
        settings = model.pretrained_cfg
        mean, std = (torch.tensor(settings[key])[:, None, None] for key in ["mean", "std"])
        images = (found["images"] - mean) / std
        yield compare(f"{relative}, timm", list(found["logits"]), list(model(images)))
        model = AutoModelForImageClassification.from_pretrained(export / "transformers").eval()
        theirs = model(pixel_values=images).logits
        yield compare(f"{relative}, transformers", list(found["logits"]), list(theirs))


def main():
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        checks = [check_texts, check_glue, check_language, check_images]
        results = [good for check in checks for good in check(work)]
    print(f"{sum(results)} of {len(results)} exports are equal to {TOLERANCE} of the largest logit")
    # A kind that makes no run must not go unseen.
    sys.exit(not all(results) or len(results) != RUNS)


main()
