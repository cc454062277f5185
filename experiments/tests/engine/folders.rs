//! Folders of runs: whose they are, what is made of them, and what does not belong there.

use std::path::Path;
use std::process::Stdio;

use experiments::run::folder::Folder;

use crate::support::{Binary, has_checkpoint, stderr, text, untrained, wait_until};
use crate::{FIGURE, ONE, TABLE1, TABLE2, TABLE3, TABLE4, TABLE5, at};

#[test]
fn another_strength_is_another_table() {
    let root = tempfile::tempdir().unwrap();
    for (binary, arm, row) in
        [(TABLE1, "per-sequence", ["--models", "vit"]), (TABLE5, "pooled", ["--models", "gpt2"])]
    {
        let both = root.path().join(arm);
        for t in ["0.3", "1"] {
            let (out, set) = (both.join(t), format!("strength={t}"));
            let own = ["--preset", "smoke", "--arms", arm, "--seeds", "1", "--set", &set];
            let rate = ["--set", "learning_rate=1e-3", "--out", out.to_str().unwrap()];
            binary.success(&[&own[..], &row, &rate].concat());
        }
        let error = binary.failure(&["report", "--out", both.to_str().unwrap()]);
        assert!(error.contains("another learning rate, embedding table, strength"), "{error}");
    }
}

#[test]
fn runs_that_no_table_could_show_together_are_refused_before_they_are_trained() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    let run = |preset, model, more: &[&'static str]| {
        let own = ["run", "--preset", preset, "--models", model, "--seeds", "2", "--out", &out];
        own.iter().chain(more).map(ToString::to_string).collect::<Vec<_>>()
    };
    let of_shard = ["--arms", "baseline", "--set", "learning_rate=1e-3", "--shard", "0/2"];
    let first = run("smoke", "vit", &of_shard);
    TABLE1.success(&first.iter().map(String::as_str).collect::<Vec<_>>());
    for (expected, refused) in [
        (
            "another learning rate",
            run(
                "smoke",
                "vit",
                &["--arms", "baseline", "--set", "learning_rate=5e-2", "--shard", "1/2"],
            ),
        ),
        (
            "runs of different recipes",
            run("smoke", "vit", &["--arms", "muon", "--set", "epochs=7"]),
        ),
        ("preset smoke and of table1-imagenet, preset short", run("short", "swin", &[])),
    ] {
        let error = TABLE1.failure(&refused.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(error.contains(expected) && error.contains("give each its own --out"), "{error}");
    }
    let trained = experiments::run::folder::find(Path::new(&out)).unwrap();
    assert_eq!(trained.len(), 1, "{trained:?}");
    // A run that was begun and broke off counts too: it could not go on beside them.
    std::fs::remove_file(trained[0].path().join("summary.json")).unwrap();
    let other = run("smoke", "vit", &["--arms", "muon", "--set", "epochs=7"]);
    let error = TABLE1.failure(&other.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(error.contains("runs of different recipes"), "{error}");
    assert!(error.contains("They differ in job.fit.length"), "{error}");
}

#[test]
fn a_finished_run_without_its_record_is_named() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    let run = [&ONE[..], &["--arms", "baseline", "--out", &out]].concat();
    TABLE1.success(&run);
    let folder = Path::new(&out).join("vit/baseline-published/seed100");
    std::fs::remove_file(folder.join("metrics.jsonl")).unwrap();
    // A worker that comes after another command has finished the run lets it be.
    TABLE1.work(&folder, "1");
    assert!(!folder.join("metrics.jsonl").exists());
    let error = TABLE1.failure(&["report", "--out", &out]);
    assert!(error.contains("the record of this finished run is gone; restore it"), "{error}");
    // Another configuration does not take its place.
    let before = text(&folder.join("run.json"));
    let error = TABLE1.failure(&[&run[..], &["--set", "epochs=7"]].concat());
    assert!(error.contains("another configuration"), "{error}");
    assert_eq!(text(&folder.join("run.json")), before);
}

/// A worker trains the configuration that it finds in its folder.
#[test]
fn a_run_that_another_command_has_claimed_is_no_result() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    let run = ["--preset", "smoke", "--models", "vit", "--seeds", "1", "--threads", "1"];
    let arms = ["--arms", "baseline,per-sequence", "--out", &out];
    let slow = ["--set", "learning_rate=1e-3", "--set", "epochs=40"];
    let mut first = TABLE1.command(&[&run[..], &arms, &slow].concat());
    let first = first.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let [baseline, other] = ["baseline", "per-sequence"]
        .map(|arm| root.path().join(format!("out/vit/{arm}-set/seed100")));
    wait_until("a record", || baseline.join("metrics.jsonl").exists());
    // As another command claims it before it is begun.
    let claimed = other.join("run.json");
    let mut config = Folder::new(&other).config().unwrap();
    config.job.fit.schedule.peak = 0.05;
    std::fs::write(&claimed, serde_json::to_string(&config).unwrap()).unwrap();
    let output = first.wait_with_output().unwrap();
    let error = stderr(&output);
    assert!(!output.status.success() && error.contains("another command has put"), "{error}");
}

/// What trains a run holds its lock.
#[test]
fn a_run_that_another_process_trains_keeps_its_configuration() {
    let root = tempfile::tempdir().unwrap();
    let (out, other) = (at(&root, "out"), at(&root, "other"));
    let run = [&ONE[..], &["--arms", "baseline"]].concat();
    TABLE1.success(&[&run[..], &["--out", &out]].concat());
    let cell = "vit/baseline-published/seed100";
    // Claimed, and about to begin.
    let claimed = untrained(&Path::new(&out).join(cell), Path::new(&other).join(cell));
    let before = text(&claimed.join("run.json"));
    let again = [&run[..], &["--set", "epochs=7", "--out", &other]].concat();
    let lock = Folder::new(&claimed).lock().unwrap();
    let error = TABLE1.failure(&again);
    assert!(error.contains("another process is writing this run"), "{error}");
    assert_eq!(text(&claimed.join("run.json")), before);
    // Once it is free, and still not begun, the run is whose command comes next.
    drop(lock);
    TABLE1.success(&again);
    assert_ne!(text(&claimed.join("run.json")), before);
}

#[test]
fn only_one_table_is_made_of_a_folder_and_each_cell_once() {
    let root = tempfile::tempdir().unwrap();
    // A model that is named twice is trained once.
    let out = at(&root, "out");
    let twice = ["--preset", "smoke", "--models", "vit,vit", "--arms", "baseline", "--seeds", "1"];
    TABLE1.success(&[&twice[..], &["--out", &out]].concat());
    // The records of another table, and of two presets, are no table.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = root.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    let file = copy.join("results.csv");
    let copy = copy.to_str().unwrap();
    std::fs::copy(here.join("table5_tinystories/results/short/results.csv"), &file).unwrap();
    let error = TABLE1.failure(&["report", "--out", copy]);
    assert!(error.contains("not one table of table1-imagenet"), "{error}");
    let [short, mnist] = ["short", "mnist-4k"]
        .map(|preset| text(&here.join(format!("table1_imagenet/results/{preset}/results.csv"))));
    let both = short.clone() + mnist.split_once('\n').unwrap().1;
    std::fs::write(&file, both).unwrap();
    let error = TABLE1.failure(&["report", "--out", copy]);
    assert!(error.contains("twice") || error.contains("not one table"), "{error}");
    assert_eq!(std::fs::read_dir(copy).unwrap().count(), 1, "nothing was written");
    // Settings of another table are told.
    let other = here.join("table5_tinystories/tuned/smoke.json");
    let tuned = ["plan", "--preset", "smoke", "--tuned", other.to_str().unwrap()];
    for command in ["plan", "tune"] {
        let error = TABLE1.failure(&[&[command], &tuned[1..]].concat());
        assert!(error.contains("settings of gpt2"), "{error}");
    }
}

#[test]
fn an_interrupted_folder_of_runs_can_be_moved() {
    let root = tempfile::tempdir().unwrap();
    let (out, moved) = (root.path().join("out"), root.path().join("moved"));
    let own = ["--preset", "smoke", "--arms", "pooled", "--seeds", "1", "--set", "steps=300"];
    let arguments = |out: &Path| {
        let out = ["--threads", "1", "--out", out.to_str().unwrap()];
        own.iter().chain(&out).map(ToString::to_string).collect::<Vec<_>>()
    };
    let mut child =
        TABLE5.command(&[]).args(arguments(&out)).stderr(Stdio::null()).spawn().unwrap();
    let run = out.join("gpt2/pooled-published/seed100");
    wait_until("a checkpoint", || has_checkpoint(&run));
    child.kill().unwrap();
    child.wait().unwrap();
    let lock = std::fs::File::open(run.join("lock")).unwrap();
    lock.lock().unwrap();
    drop(lock);
    std::fs::rename(&out, &moved).unwrap();
    let arguments = arguments(&moved);
    TABLE5.success(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn an_exported_model_does_not_get_in_the_way_of_runs() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    let run = [&ONE[..], &["--arms", "baseline", "--out", &out]].concat();
    let table = TABLE1.success(&run);
    let cell = format!("{out}/vit/baseline-published/seed100");
    for inside in [cell.clone(), format!("{cell}/model")] {
        let error = TABLE1.failure(&["export", "--run", &cell, "--out", &inside]);
        assert!(error.contains("in the folder of a run"), "{error}");
    }
    // Beside the runs it is welcome.
    TABLE1.success(&["export", "--run", &cell, "--out", &format!("{out}/vit/model")]);
    assert_eq!(TABLE1.success(&["report", "--out", &out]), table);
    // The page has the table, what the run was configured as, and asks for nothing.
    let page = std::fs::read_to_string(format!("{out}/report.html")).unwrap();
    for part in [
        "<td>ViT</td>",
        "learning curves",
        "&#34;cell&#34;",
        "rustc",
        "The searches that the settings come from",
    ] {
        assert!(page.to_lowercase().contains(&part.to_lowercase()), "{part}");
    }
    // The records for TensorBoard: a file a run, the same bytes again.
    let file =
        format!("{out}/tensorboard/vit/baseline-published/seed100/events.out.tfevents.report");
    let board = || {
        let printed = TABLE1.success(&["report", "--out", &out, "--tensorboard"]);
        assert!(printed.contains(&format!("tensorboard --logdir {out}/tensorboard")), "{printed}");
        std::fs::read(&file).unwrap()
    };
    let first = board();
    let holds = |tag: &str| first.windows(tag.len()).any(|bytes| bytes == tag.as_bytes());
    assert!(holds("training/loss") && holds("evaluation/tune_accuracy"));
    assert_eq!(board(), first);
    assert_eq!(TABLE1.success(&run), table);
}

#[test]
fn a_run_of_the_old_layout_is_told_so() {
    let root = tempfile::tempdir().unwrap();
    let old = root.path().join("out/vit/baseline-published/seed100");
    std::fs::create_dir_all(&old).unwrap();
    std::fs::write(old.join("config.json"), "{\"version\": \"0.1.0\"}").unwrap();
    for file in ["metrics.jsonl", "lock"] {
        std::fs::write(old.join(file), "").unwrap();
    }
    let out = at(&root, "out");
    let run = [&ONE[..], &["--arms", "baseline", "--out", &out]].concat();
    for arguments in [&["report", "--out", &out][..], &run] {
        let error = TABLE1.failure(arguments);
        assert!(error.contains("another version") && error.contains("another layout"), "{error}");
    }
    // Nothing was written into it.
    assert_eq!(std::fs::read_dir(&old).unwrap().count(), 3);
}

/// Every committed table is the one of its committed results, in its folder and in its README.
#[test]
fn committed_tables_are_those_of_the_committed_results() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for (binary, folder) in [
        (TABLE1, "table1_imagenet"),
        (TABLE2, "table2_coco"),
        (TABLE3, "table3_lra"),
        (TABLE4, "table4_glue"),
        (TABLE5, "table5_tinystories"),
        (FIGURE, "figure_conditioning"),
    ] {
        for results in here.join(folder).join("results").read_dir().unwrap() {
            let (results, readme) = (results.unwrap().path(), here.join(folder).join("README.md"));
            check_committed(binary, &results, Some(&readme));
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen} tables");
}

/// The same of the cells of the answer, whose searches lie beside them.
#[test]
fn committed_tables_of_the_answer_are_those_of_their_results() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("answer/results");
    let mut seen = 0;
    for (binary, cells) in [
        (TABLE1, &["digits-vit", "digits-deit", "digits-swin"][..]),
        (TABLE3, &["listops"]),
        (TABLE4, &["crammed"]),
        (TABLE5, &["shakespeare", "stories", "tinystories"]),
    ] {
        for cell in cells {
            check_committed(binary, &here.join(cell), None);
            seen += 1;
        }
    }
    assert_eq!(seen, here.read_dir().unwrap().count());
}

/// Makes the table of the folder `results` again, in a copy, and that in `readme`.
fn check_committed(binary: Binary, results: &Path, readme: Option<&Path>) {
    let copy = tempfile::tempdir().unwrap();
    for file in ["results.csv", "timings.csv", "settings.json"] {
        if results.join(file).exists() {
            std::fs::copy(results.join(file), copy.path().join(file)).unwrap();
        }
    }
    let out = copy.path().to_str().unwrap();
    let mut remedy = format!("run: report --out {}", results.display());
    match readme {
        None => drop(binary.success(&["report", "--out", out])),
        Some(readme) => {
            let insert = copy.path().join("README.md");
            std::fs::copy(readme, &insert).unwrap();
            binary.success(&["report", "--out", out, "--insert", insert.to_str().unwrap()]);
            remedy += &format!(" --insert {}", readme.display());
            assert!(text(&insert) == text(readme), "{}: {remedy}", readme.display());
        }
    }
    for file in ["results.csv", "table.md", "table.tex"] {
        if !results.join(file).exists() {
            continue;
        }
        let (new, old) = (text(&copy.path().join(file)), text(&results.join(file)));
        let place = results.display();
        assert!(new == old, "{place}/{file} is not that of its results; {remedy}");
    }
}
