//! The real binary of table 3: the smoke table, determinism, resume, search, files of one's own, errors.

#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use support::{Binary, lines, probes, results, set};

const TABLE3: Binary = Binary(env!("CARGO_BIN_EXE_table3-lra"));

const ARMS: [&str; 3] = ["baseline", "per-sequence", "pooled"];

const ROWS: [&str; 3] = ["listops", "image", "pathfinder"];

fn run(out: &Path, threads: &str) -> String {
    TABLE3.success(&["--preset", "smoke", "--threads", threads, "--out", out.to_str().unwrap()])
}

#[test]
fn the_smoke_table_is_complete_and_repeats_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    let table = run(&first, "1");
    for word in ["stand-ins", "mean of these", "κ", "58.7", "59.4", "37.1"] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
    let lines = lines(&first);
    for row in ROWS {
        for arm in ARMS {
            let cells = lines.iter().filter(|line| {
                line["row"] == row && line["arm"] == arm && line["metric"] == "test_accuracy"
            });
            assert!(cells.count() >= 2, "{row} {arm}");
        }
    }
    for file in ["timings.csv", "table.md", "table.tex", "curves.svg"] {
        assert!(first.join(file).exists(), "{file}");
    }
    // A stand-in does not carry the name of what it stands in for.
    let stand_ins = lines.iter().all(|line| !line["data"].contains("LRA"));
    assert!(stand_ins);

    run(&second, "2");
    assert_eq!(results(&first), results(&second), "one and two cells side by side");
    // A second run keeps every cell, a report needs no training: the same table.
    assert_eq!(run(&first, "1"), table);
    assert_eq!(TABLE3.success(&["report", "--out", first.to_str().unwrap()]), table);
    TABLE3.resumes(&first.join("listops/pooled-published/seed100"), &root.path().join("resumed"));
}

/// The mean stands for seeds that every task has.
#[test]
fn the_mean_is_that_of_the_tasks_seed_by_seed() {
    let out = tempfile::tempdir().unwrap();
    let place = out.path().to_str().unwrap();
    let settings = set(&["learning_rate=1e-3", "steps=2"]);
    let options = ["--preset", "smoke", "--arms", "baseline", "--models", "listops,image"];
    TABLE3.success(&[&options[..], &["--out", place], &settings[..]].concat());
    let accuracy = |row: &str, seed: &str| -> f64 {
        let lines = lines(out.path());
        let found = lines.iter().find(|line| {
            line["row"] == row && line["seed"] == seed && line["metric"] == "test_accuracy"
        });
        found.unwrap()["value"].parse().unwrap()
    };
    let mean =
        ["100", "101"].map(|seed| (accuracy("listops", seed) + accuracy("image", seed)) / 2.0);
    let mean = format!("{:.1}", (mean[0] + mean[1]) / 2.0);
    let table = fs::read_to_string(out.path().join("table.csv")).unwrap();
    let row = table.lines().find(|line| line.starts_with("mean of these")).unwrap();
    assert!(row.contains(&mean), "{mean} is missing in {row}");
}

const FEW: [&str; 9] = [
    "width=16",
    "hidden=32",
    "landmarks=8",
    "batch_size=4",
    "steps=2",
    "evaluations=1",
    "learning_rate=1e-3",
    "max_length=64",
    "probe_every=1",
];

fn few(preset: &[&str], out: &Path) -> String {
    let settings = set(&FEW);
    let common = ["--arms", "baseline,pooled", "--seeds", "1", "--out", out.to_str().unwrap()];
    TABLE3.success(&[preset, &common[..], &settings[..]].concat())
}

#[test]
fn released_listops_and_texts_of_ones_own_are_trained_on() {
    let root = tempfile::tempdir().unwrap();
    let lra = root.path().join("lra");
    fs::create_dir_all(lra.join("listops-1000")).unwrap();
    for part in ["train", "val", "test"] {
        let mut file = "Source\tTarget\n".to_string();
        for i in 0..12 {
            let (a, b) = (i % 10, (3 * i + part.len()) % 10);
            writeln!(file, "( ( ( [MAX {a} ) {b} ) ] )\t{}", a.max(b)).unwrap();
        }
        fs::write(lra.join(format!("listops-1000/basic_{part}.tsv")), file).unwrap();
    }
    let out = root.path().join("listops");
    let lra = lra.to_str().unwrap();
    let table = few(&["--models", "listops", "--lra", lra], &out);
    assert!(table.contains("ListOps"), "{table}");
    let probed = |out: &Path, row: &str| probes(&out.join(row).join("pooled-set/seed100"), 1).len();
    assert_eq!(probed(&out, "listops"), 3);

    let texts = root.path().join("films.jsonl");
    let row = |i: usize| {
        let words = ["good", "bad"][i % 2];
        format!("{{\"text\": \"a {words} film, number {i}, and more\", \"label\": {}}}\n", i % 2)
    };
    fs::write(&texts, (0..60).map(row).collect::<String>()).unwrap();
    let texts = texts.to_str().unwrap();
    let out = root.path().join("texts");
    let table = few(&["--models", "text,retrieval", "--texts", texts], &out);
    assert!(table.contains("films") && table.contains("Retrieval"), "{table}");
    // Of a pair its first text.
    assert_eq!((probed(&out, "text"), probed(&out, "retrieval")), (3, 3));
}

#[test]
fn what_is_missing_or_contradicts_is_said_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let out = out.to_str().unwrap();
    let folder = root.path().to_str().unwrap();
    let released = root.path().join("lra");
    fs::create_dir_all(released.join("listops-1000")).unwrap();
    let released = released.to_str().unwrap();
    for (options, expected) in [
        (&["--preset", "lra-cpu", "--models", "text"][..], "needs --texts"),
        (&["--preset", "lra-cpu", "--models", "image"], "needs --images"),
        (&["--preset", "lra-cpu", "--models", "retrieval"], "needs --lra with the folder tsv_data"),
        (&["--preset", "short", "--texts", folder], "data of its own"),
        (&["--lra", folder, "--models", "listops"], "holds none of the folders listops-1000"),
        (&["--texts", folder], "--texts: no row of this command reads it; take --models with text"),
        (&["--images", folder, "--models", "text", "--texts", folder], "--images: no row"),
        (&["--lra", released, "--models", "pathfinder"], "--lra: no row"),
        (&["--set", "leave_out_black=true", "--models", "listops"], "has no pixels"),
        (&["--set", "steps=7"], "must be a multiple of evaluations"),
        (&["--set", "accumulate=0"], "--set accumulate=0"),
        (&["--set", "landmarks=-1"], "landmarks"),
        (&["--set", "convolution=4"], "convolution 4 must be odd"),
    ] {
        let error = TABLE3.failure(&[options, &["--out", out]].concat());
        assert!(error.contains(expected), "{options:?}: {error}");
    }
}

/// Hours of the published recipe, without data or training.
#[test]
fn the_published_recipe_is_planned_without_data() {
    let plan = TABLE3.success(&["plan", "--preset", "paper"]);
    for word in ["listops", "retrieval", "pathfinder"] {
        assert!(plan.contains(word), "{word} is missing in\n{plan}");
    }
}
