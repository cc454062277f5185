//! The real binary of table 4, smoke preset: results, determinism, resume, search, real files, errors.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use support::{Binary, lines, results, set, text};

const TABLE4: Binary = Binary(env!("CARGO_BIN_EXE_table4-glue"));

const ARMS: [&str; 3] = ["baseline", "per-sequence", "pooled"];

/// What a BERT must reach on the generated pairs, in %; a bag of words is at chance
/// (`conditioned-data`, tests of the pairs).
const LEARNED: f64 = 90.0;

fn run(out: &Path, threads: &str) -> String {
    TABLE4.success(&["--preset", "smoke", "--threads", threads, "--out", out.to_str().unwrap()])
}

#[test]
fn the_smoke_table_is_complete_and_repeats_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    let table = run(&first, "1");
    for word in ["generated pairs", "published", "κ", "78.6", "79.7"] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
    let lines = lines(&first);
    for arm in ARMS {
        for (budget, metric) in
            [("steps", "test_loss"), ("steps", "rte/score"), ("time", "rte/score")]
        {
            let found = lines.iter().any(|line| {
                line["arm"] == arm && line["budget"] == budget && line["metric"] == metric
            });
            assert_eq!(found, arm != "baseline" || budget == "steps", "{arm} {budget} {metric}");
        }
    }
    for file in ["timings.csv", "budgets.json", "table.md", "table.tex", "curves.svg"] {
        assert!(first.join(file).exists(), "{file}");
    }

    // The budget in time is measured; all else follows from it.
    std::fs::create_dir_all(&second).unwrap();
    std::fs::copy(first.join("budgets.json"), second.join("budgets.json")).unwrap();
    run(&second, "2");
    assert_eq!(results(&first), results(&second), "one and two cells side by side");
    // A second run keeps every cell, a report needs no training: the same table.
    assert_eq!(run(&first, "1"), table);
    assert_eq!(TABLE4.success(&["report", "--out", first.to_str().unwrap()]), table);

    // A task of another recipe is refused before anything is pre-trained for it.
    let out = ["--seeds", "3", "--out", first.to_str().unwrap()];
    let other = ["--preset", "smoke", "--set", "task_batch_size=3"];
    let error = TABLE4.failure(&[&other[..], &out[..]].concat());
    assert!(error.contains("different recipes") && error.contains("batch_size: "), "{error}");
    assert!(!first.join("crammed-bert/baseline-published/seed102").exists());

    // The batch ramp, the pooled Gram, and a classifier on what was pre-trained.
    for stage in ["pre-training", "rte"] {
        let run = format!("crammed-bert/pooled-published/seed100/{stage}");
        TABLE4.resumes(&first.join(&run), &root.path().join(stage));
    }
}

#[test]
fn a_bert_learns_the_pairs_from_what_it_was_pre_trained_on() {
    let out = tempfile::tempdir().unwrap();
    // More steps than the default table has, with which six seeds of six found the rule (docs/LOG.md). It is
    // found all at once or not at all, and sums in another order may move that: the better of two seeds.
    let more = ["learning_rate=8e-3", "embedding_std=0.02", "micro_batches=4500", "task_epochs=8"];
    let more = set(&more);
    let one = ["--arms", "baseline", "--seeds", "2", "--out", out.path().to_str().unwrap()];
    TABLE4.success(&[&one[..], &more[..]].concat());
    let accuracies: Vec<f64> = lines(out.path())
        .iter()
        .filter(|line| line["metric"] == "rte/score")
        .map(|line| line["value"].parse().unwrap())
        .collect();
    assert_eq!(accuracies.len(), 2);
    assert!(accuracies.iter().any(|accuracy| *accuracy > LEARNED), "{accuracies:?}");
}

#[test]
fn a_search_records_settings_that_a_run_uses() {
    let root = tempfile::tempdir().unwrap();
    let (search, out) = (root.path().join("search"), root.path().join("out"));
    let (search, out) = (search.to_str().unwrap(), out.to_str().unwrap());
    let arguments = ["--preset", "smoke", "--models", "bert", "--arms", "baseline", "--seeds", "1"];
    let error = TABLE4.failure(&[&arguments[..], &["--out", out]].concat());
    assert!(error.contains("tune --preset smoke --models bert --arms baseline"), "{error}");
    TABLE4.success(&[&["tune"], &arguments[..], &["--out", search]].concat());
    let tuned = format!("{search}/tuned.json");
    let json: serde_json::Value = serde_json::from_str(&text(Path::new(&tuned))).unwrap();
    assert_eq!(json["rows"]["bert"]["baseline"]["published"]["embedding_std"], 0.02);
    TABLE4.success(&[&arguments[..], &["--tuned", &tuned, "--out", out]].concat());
    assert!(lines(Path::new(out)).iter().any(|line| line["metric"] == "rte/score"));
    // No cell of a search has seen the test documents.
    let cell = format!("{search}/bert/baseline-lr0.003-x1-std0.02/seed0/pre-training");
    assert!(!text(&Path::new(&cell).join("summary.json")).contains("test_"));
}

#[test]
fn files_are_pre_trained_and_fine_tuned_on() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_string();
    let verses = (0..200).map(|i| format!("Roses are {}.\nViolets too.\n\n", i * i));
    std::fs::write(at("verses.txt"), verses.collect::<String>()).unwrap();
    // RTE with both files, QNLI with its dev file alone, and a folder that is no task.
    for folder in ["glue/RTE", "glue/QNLI", "glue/notes"] {
        std::fs::create_dir_all(at(folder)).unwrap();
    }
    let rows = |second: &str| {
        let row = |i: usize| {
            let label = if i.is_multiple_of(2) { "entailment" } else { "not_entailment" };
            format!("{i}\trose {i}\tviolet {}\t{label}\n", i % 7)
        };
        format!("index\t{second}\tlabel\n") + &(0..40).map(row).collect::<String>()
    };
    std::fs::write(at("glue/RTE/train.tsv"), rows("sentence1\tsentence2")).unwrap();
    std::fs::write(at("glue/RTE/dev.tsv"), rows("sentence1\tsentence2")).unwrap();
    std::fs::write(at("glue/QNLI/dev.tsv"), rows("question\tsentence")).unwrap();
    let small = [
        "width=16",
        "depth=1",
        "heads=2",
        "hidden=32",
        "window=16",
        "context=32",
        "task_max_length=32",
        "micro_batches=4",
        "evaluations=2",
        "tokenizer=wordpiece-60",
        "separator=",
        "tune=0.2",
        "test=0.2",
        "batch_size=2",
        "learning_rate=1e-3",
        "task_epochs=1",
    ];
    let small = set(&small);
    let (corpus, glue, out) = (at("verses.txt"), at("glue"), at("out"));
    let files = ["--corpus", &corpus, "--data", &glue, "--out", &out, "--seeds", "1"];
    let arguments = [&files[..], &["--arms", "baseline,pooled"], &small[..]].concat();
    let table = TABLE4.success(&arguments);
    for word in ["verses", "split of its dev set", "qnli", "rte"] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
    // Further tasks need no further pre-training.
    std::fs::create_dir_all(at("glue/sst-2")).unwrap();
    let sentences = "sentence\tlabel\nroses\t1\nviolets\t0\nred\t1\nblue\t0\n";
    for set in ["train", "dev"] {
        std::fs::write(at(&format!("glue/sst-2/{set}.tsv")), sentences).unwrap();
    }
    TABLE4.success(&arguments);
    assert!(lines(Path::new(&out)).iter().any(|line| line["metric"] == "sst2/score"));
}

#[test]
fn a_bad_call_is_one_clear_error() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_string();
    std::fs::write(at("text.txt"), "one\n\ntwo\n\nthree").unwrap();
    std::fs::create_dir_all(at("none")).unwrap();
    let smoke = |pair: &str| format!("--preset smoke --set {pair}");
    let cases: Vec<(String, &[&str])> = vec![
        ("--preset tiny".into(), &["invalid value 'tiny'", "glue-cpu"]),
        ("--models gpt".into(), &["invalid value 'gpt'", "crammed-bert"]),
        ("--arms magic".into(), &["invalid value 'magic'", "pooled-norm-matched"]),
        ("--preset paper".into(), &["needs --corpus"]),
        (format!("--corpus {}", at("text.txt")), &["needs --data"]),
        (format!("--preset smoke --data {}", at("none")), &["leave out the files"]),
        (
            format!("--corpus {} --data {} --set learning_rate=1", at("text.txt"), at("absent")),
            &["--data", "no such folder"],
        ),
        (
            format!("--corpus {} --data {} --set learning_rate=1", at("text.txt"), at("none")),
            &["no folder of a task of GLUE", "mnli"],
        ),
        (smoke("epochs=3"), &["unknown key `epochs`", "micro_batches"]),
        (smoke("micro_batches=25"), &["micro_batches=25", "multiple of evaluations"]),
        (smoke("hidden=31"), &["crammed-bert", "hidden"]),
        (smoke("width=15"), &["crammed-bert", "width"]),
        (smoke("strength=-1"), &["strength t is -1"]),
        (
            "--preset smoke --arms pooled-norm-matched".into(),
            &["norm-matched", "placement=after-norm"],
        ),
        (smoke("window=4000"), &["window=4000", "context"]),
        (smoke("tokenizer=characters"), &["[MASK]"]),
        (smoke("tokenizer=nowhere"), &["no tokenizer at nowhere", "wordpiece-V"]),
        (smoke("mask=0"), &["--set mask=0"]),
        (smoke("task_rows=200000"), &["pre-training text"]),
        (smoke("batch_ramp=2"), &["ramp"]),
        (smoke("task_learning_rate=0"), &["schedule.peak"]),
        (smoke("task_dropout=1"), &["task_dropout=1"]),
        (smoke("first_pair=39990"), &["first_pair=39990", "pre-training text"]),
        ("tune --preset smoke --set learning_rate=1".into(), &["--set learning_rate=null"]),
        ("sweep --preset smoke --shard 0/2".into(), &["--shard"]),
        ("--preset smoke --seeds 0".into(), &["--seeds"]),
        ("--preset smoke --device cuda:0".into(), &["built without CUDA"]),
        ("report --out absent".into(), &["no such folder"]),
    ];
    let out = at("out");
    for (arguments, expected) in cases {
        let mut words: Vec<&str> = arguments.split(' ').collect();
        if words[0] != "report" {
            words.extend(["--out", &out]);
        }
        let error = TABLE4.failure(&words);
        for part in expected {
            assert!(error.contains(part), "{arguments}: {error}");
        }
    }
}
