//! The real binary of table 1, smoke preset: results, determinism, resume, search, errors.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Binary, has_checkpoint, lines, results, text, untrained, wait_until};

const TABLE1: Binary = Binary(env!("CARGO_BIN_EXE_table1-imagenet"));

fn table1(arguments: &[&str]) -> Command {
    TABLE1.command(arguments)
}

fn success(arguments: &[&str]) -> String {
    TABLE1.success(arguments)
}

fn failure(arguments: &[&str]) -> String {
    TABLE1.failure(arguments)
}

const SMALL: [&str; 8] =
    ["--preset", "smoke", "--models", "vit", "--arms", "baseline,pooled-current", "--seeds", "2"];

#[test]
fn the_smoke_table_is_complete_and_repeats_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    let arms = "baseline,init,per-sequence,pooled-current,per-sequence-norm-matched,standardised";
    let run = |out: &Path, threads: &str| {
        let out = out.to_str().unwrap();
        let rows = ["--preset", "smoke", "--models", "vit,deit"];
        success(&[&rows[..], &["--arms", arms, "--threads", threads, "--out", out]].concat())
    };
    let table = run(&first, "1");
    for word in ["ViT", "DeiT", "published", "UCI digits", "paper: ImageNet-1k", "81.3", "82.5"] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
    // Every arm has a run in the record, and a row of its own in the table.
    for arm in arms.split(',') {
        for row in ["vit", "deit"] {
            let is_run = |line: &HashMap<String, String>| {
                (&*line["row"], &*line["arm"], &*line["start"]) == (row, arm, "published")
            };
            assert!(lines(&first).iter().any(is_run), "no run of {row} {arm}");
        }
        let rows = text(&first.join("table.csv"));
        let of_arm = rows.lines().filter(|line| line.contains(&format!(",{arm},")));
        assert!(of_arm.count() >= 2, "{arm} is missing in\n{rows}");
    }
    for file in ["results.csv", "timings.csv", "table.md", "table.tex", "table.csv", "curves.svg"] {
        assert!(first.join(file).exists(), "{file}");
    }

    run(&second, "2");
    assert_eq!(results(&first), results(&second), "one and two cells side by side");
    let cell = "vit/pooled-current-published/seed100/metrics.jsonl";
    assert_eq!(text(&first.join(cell)), text(&second.join(cell)));

    // A second run keeps every cell, a report needs no training: the same table.
    assert_eq!(run(&first, "1"), table);
    assert_eq!(success(&["report", "--out", first.to_str().unwrap()]), table);
}

#[test]
fn one_and_two_threads_train_to_the_same_bits() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    // Wide batches, so that the kernels have several pieces to share.
    let wide = ["--models", "vit", "--arms", "per-sequence,pooled-current", "--seeds", "1"];
    let wide = [&wide[..], &["--set", "model=vit-8", "--set", "batch_size=110"]].concat();
    success(&[&["--preset", "smoke", "--out", one.to_str().unwrap()], &wide[..]].concat());
    for cell in ["vit/per-sequence-published/seed100", "vit/pooled-current-published/seed100"] {
        let folder = untrained(&one.join(cell), two.join(cell));
        TABLE1.work(&folder, "2");
        let metrics = |out: &Path| text(&out.join(cell).join("metrics.jsonl"));
        assert_eq!(metrics(&one), metrics(&two));
    }
}

#[test]
fn a_killed_run_resumes_to_the_same_results() {
    let root = tempfile::tempdir().unwrap();
    let (killed, whole) = (root.path().join("killed"), root.path().join("whole"));
    // Long enough to be killed in the middle.
    let arguments = |out: &Path| -> Vec<String> {
        let out = ["--set", "epochs=60", "--threads", "1", "--out", out.to_str().unwrap()];
        SMALL.iter().chain(&out).map(ToString::to_string).collect()
    };
    let mut child = table1(&[])
        .args(arguments(&killed))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let folder = killed.join("vit/baseline-published/seed100");
    wait_until("a checkpoint", || has_checkpoint(&folder));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.join("results.csv").exists(), "it was killed in the middle");

    // The orphaned worker stops when its input closes; until then its folder is locked.
    let lock = std::fs::File::open(folder.join("lock")).unwrap();
    wait_until("the end of the worker, whose parent is gone", || lock.try_lock().is_ok());
    drop(lock);

    for out in [&killed, &whole] {
        let arguments = arguments(out);
        success(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    assert_eq!(results(&killed), results(&whole));
    let metrics = "vit/baseline-published/seed100/metrics.jsonl";
    assert_eq!(text(&killed.join(metrics)), text(&whole.join(metrics)));
}

/// Networks without embedding tables run every arm but `init`, which is refused where it is named, and once:
/// published and tuned are the same.
#[test]
fn networks_without_embedding_tables_search_learning_rates_alone() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let rows = ["--preset", "smoke", "--models", "swin,xcit,davit", "--seeds", "1"];
    let table = success(&[&rows[..], &["--out", out.to_str().unwrap()]].concat());
    for word in ["Swin", "XCiT", "DaViT", "83.1", "82.9", "84.6"] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
    let arms: Vec<String> = lines(&out)
        .into_iter()
        .filter(|line| &*line["metric"] == "test_accuracy")
        .map(|line| format!("{} {} {}", line["row"], line["arm"], line["start"]))
        .collect();
    let wanted = ["davit", "swin", "xcit"].into_iter().flat_map(|row| {
        ["baseline", "muon", "per-sequence", "pooled-current"]
            .map(|arm| format!("{row} {arm} published"))
    });
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(sorted(arms), sorted(wanted.collect()));
    let error = failure(&["--preset", "smoke", "--models", "swin", "--arms", "init"]);
    assert!(error.contains("swin init"), "{error}");
}

#[test]
fn a_worker_killed_in_a_step_resumes_from_its_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    let one = ["--preset", "smoke", "--models", "deit", "--arms", "pooled-current", "--seeds", "1"];
    let long = ["--set", "epochs=40", "--out", whole.to_str().unwrap()];
    success(&[&one[..], &long[..]].concat());
    let run = whole.join("deit/pooled-current-published/seed100");
    TABLE1.resumes(&run, &root.path().join("killed"));
}

#[test]
fn a_search_records_settings_that_a_run_uses() {
    let root = tempfile::tempdir().unwrap();
    let (search, out) = (root.path().join("search"), root.path().join("out"));
    let (search, out) = (search.to_str().unwrap(), out.to_str().unwrap());
    let arguments = ["--preset", "smoke", "--models", "vit", "--arms", "baseline", "--seeds", "1"];
    success(&[&["tune"], &arguments[..], &["--out", search]].concat());
    let tuned = format!("{search}/tuned.json");
    let json: serde_json::Value = serde_json::from_str(&text(Path::new(&tuned))).unwrap();
    assert_eq!(json["rows"]["vit"]["baseline"]["published"]["embedding_std"], 0.02);
    success(&[&arguments[..], &["--tuned", &tuned, "--out", out]].concat());
    assert!(text(&Path::new(out).join("results.csv")).lines().count() >= 2);
    // No cell of a search has seen the test images.
    let summary = format!("{search}/vit/baseline-lr0.002-x1-std0.02/seed0/summary.json");
    assert!(!text(Path::new(&summary)).contains("test_"));
}

#[test]
fn a_plan_names_the_arm_that_the_default_leaves_out() {
    let (left_out, cell) = ("see --arms: pooled-current", "vit pooled-current tuned");
    let plan = success(&["plan"]);
    assert!(plan.contains(left_out) && !plan.contains(cell), "{plan}");
    let plan = success(&["plan", "--arms", "baseline,pooled-current"]);
    assert!(!plan.contains(left_out) && plan.contains(cell), "{plan}");
}

#[test]
fn bad_input_gets_one_clear_error() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_string();
    std::fs::create_dir(at("empty")).unwrap();
    std::fs::write(at("file"), "").unwrap();
    std::fs::create_dir(at("corrupt")).unwrap();
    for name in ["train-images", "train-labels", "t10k-images", "t10k-labels"] {
        let kind = if name.ends_with("images") { "idx3" } else { "idx1" };
        std::fs::write(at("corrupt") + &format!("/{name}-{kind}-ubyte"), [0, 0, 8, 3, 0]).unwrap();
    }
    let (out, under_a_file) = (at("out"), at("file") + "/out");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--data", &at("absent")], &["absent"]),
        (&["--data", &at("empty")], &["empty", "a folder for each class", "MNIST"]),
        (&["--data", &at("corrupt")], &["train-images-idx3-ubyte", "truncated"]),
        (
            &["--preset", "huge"],
            &[
                "invalid value 'huge'",
                "short, smoke, mnist-4k, cifar10, answer, answer-mnist, answer-cifar10, paper",
            ],
        ),
        (&["--preset", "mnist-4k"], &["--data"]),
        (&["--preset", "paper"], &["--data", "train and val", "`plan` needs none"]),
        (&["--preset", "cifar10"], &["--data", "CIFAR-10"]),
        (&["--models", "resnet"], &["invalid value 'resnet'", "vit, deit, swin, xcit, davit"]),
        (&["--arms", "magic"], &["invalid value 'magic'", "pooled-current"]),
        (&["--set", "epoch=3"], &["unknown key `epoch`", "epochs"]),
        (&["--data", "owner/images"], &["no folder owner/images", "write hub:owner/images"]),
        #[cfg(not(feature = "hub"))]
        (&["--data", "hub:owner/images"], &["hub:owner/images", "--features hub"]),
        (&["--set", "epochs=few"], &["--set epochs=few"]),
        (&["--seeds", "0"], &["--seeds", "0 is not in 1.."]),
        (&["tune", "--preset", "smoke", "--seeds", "101"], &["--seeds", "at most 100"]),
        (
            &["plan", "--preset", "paper", "--set", "tune_images=2000000"],
            &["tune_images=2000000", "1281167 training images"],
        ),
        (&["--threads", "0"], &["--threads", "at least 1"]),
        (&["--shard", "2/2"], &["--shard", "0 <= i < n"]),
        (&["--device", "cuda:0"], &["built without CUDA"]),
        (&["--device", "abacus"], &["unknown device `abacus`"]),
        (&["--tuned", &at("absent"), "--preset", "smoke"], &["absent"]),
        (&["--preset", "smoke", "--set", "train_images=5000"], &["UCI digits", "5000"]),
        (&["--preset", "smoke", "--set", "strength=-1"], &["-1"]),
        (&["--preset", "smoke", "--set", "epochs=0"], &["`length.epochs` must be at least 1"]),
        (
            &["--preset", "smoke", "--models", "vit", "--set", "model=vit-9"],
            &["unknown model `vit-9`", "vit-8-tiny"],
        ),
        (&["--preset", "smoke", "--set", "batch_size=0"], &["batch_size=0"]),
        (
            &["--preset", "smoke", "--models", "vit", "--set", "model=vit-28"],
            &["takes [1, 28, 28]"],
        ),
        (&["--preset", "smoke", "--set", "model=vit-8"], &["model=vit-8", "row swin is of swin"]),
        (
            &["--preset", "smoke", "--models", "vit", "--set", "model=gpt2"],
            &["model=gpt2", "family gpt2", "row vit"],
        ),
        (&["--preset", "smoke", "--set", "drop_path=1.5"], &["drop_path 1.5"]),
    ];
    for (arguments, expected) in cases {
        let error = failure(&[*arguments, &["--out", &out]].concat());
        for part in *expected {
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }
    let error = failure(&["--preset", "smoke", "--out", &under_a_file]);
    assert!(error.contains(&under_a_file), "{error}");
    let error = failure(&["report", "--out", &at("absent")]);
    assert!(error.contains("no such folder"), "{error}");
}

#[test]
fn an_absurd_rate_stops_the_run_by_name_and_step() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    // One arm and one seed: of several cells, whichever fails first is the one named.
    let one = ["--preset", "smoke", "--models", "vit", "--arms", "baseline", "--seeds", "1"];
    let error = failure(
        &[&one[..], &["--set", "learning_rate=1e30", "--out", out.to_str().unwrap()]].concat(),
    );
    for part in ["vit baseline set seed 100", "step", "lower the learning rate"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn runs_of_different_recipes_do_not_make_one_table() {
    let root = tempfile::tempdir().unwrap();
    let small = ["--preset", "smoke", "--models", "vit", "--seeds", "1", "--arms"];
    for (arm, out, epochs) in [("init", "a", "epochs=1"), ("baseline", "b", "epochs=2")] {
        let out = root.path().join(out);
        success(&[&small[..], &[arm, "--set", epochs, "--out", out.to_str().unwrap()]].concat());
    }
    let error = failure(&["report", "--out", root.path().to_str().unwrap()]);
    assert!(error.contains("different recipes"), "{error}");
}

#[test]
fn another_configuration_does_not_overwrite_a_run() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let out = out.to_str().unwrap();
    let small = ["--preset", "smoke", "--models", "vit", "--arms", "init", "--seeds", "1"];
    success(&[&small[..], &["--out", out]].concat());
    let error = failure(&[&small[..], &["--set", "epochs=4", "--out", out]].concat());
    assert!(error.contains("another configuration"), "{error}");
}
