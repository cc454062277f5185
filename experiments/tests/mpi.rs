//! Several processes that train one model, started by `mpirun` on this machine.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use conditioned_train::{Event, record};
use experiments::run::folder::{self, Folder};
use support::{Binary, has_checkpoint, stderr, text, wait_until};

const TABLE5: Binary = Binary(env!("CARGO_BIN_EXE_table5-tinystories"));

/// Two processes, also where there is one core.
const TWO: &str = "mpirun --oversubscribe -n 2";

/// What Open MPI wants to hear from the root of a container.
const ROOT: [(&str, &str); 2] =
    [("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")];

/// A run of one seed with two micro-batches a step.
fn command(out: &Path, more: &[&str]) -> Command {
    let out = out.to_str().unwrap();
    let common = ["--seeds", "1", "--out", out];
    // A later value of a key takes the place of an earlier one.
    let mut command = TABLE5.command(&[&common[..], &["--set", "accumulate=2"], more].concat());
    command.envs(ROOT);
    command
}

fn succeed(out: &Path, more: &[&str]) {
    let output = command(out, more).output().unwrap();
    assert!(output.status.success(), "{more:?}: {}", stderr(&output));
}

/// The one error of a command that failed.
fn error(output: &Output) -> String {
    let text = stderr(output);
    assert!(!output.status.success() && !text.contains("panicked"), "{text}");
    assert_eq!(text.matches("error: ").count(), 1, "{text}");
    text.split_once("error: ").unwrap().1.trim().to_string()
}

fn runs(out: &Path) -> Vec<Folder> {
    folder::find(out).unwrap()
}

/// Every record below a folder, by its place there.
fn records(out: &Path) -> Vec<(PathBuf, String)> {
    let record = |run: &Folder| {
        let place = run.path().strip_prefix(out).unwrap().to_path_buf();
        (place, text(&run.path().join("metrics.jsonl")))
    };
    runs(out).iter().map(record).collect()
}

/// The processes that train the run of a folder, without their launcher.
fn processes(run: &Path) -> Vec<u32> {
    let trains = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        command.starts_with(TABLE5.0) && command.contains(run.to_str().unwrap())
    };
    let names = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).filter(trains).collect()
}

#[test]
fn two_processes_give_the_record_of_one() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    // Pooled statistics are gathered from both.
    let arms = ["--preset", "smoke", "--arms", "baseline,pooled,muon"];
    succeed(&one, &arms);
    succeed(&two, &[&arms[..], &["--launch", TWO]].concat());
    assert_eq!(records(&one), records(&two));
    assert_eq!(records(&one).len(), 6);
    for run in runs(&two) {
        assert!(text(&run.path().join("log.jsonl")).contains("\"processes\":2"));
    }
}

/// The largest difference of a loss in nats after the few steps of the smoke preset, for the order of the sums.
const ANOTHER_ORDER: f64 = 1e-5;

#[test]
fn with_several_micro_batches_each_pooled_statistics_see_all_of_them() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    let arms = ["--preset", "smoke", "--arms", "pooled", "--set", "accumulate=4"];
    succeed(&one, &arms);
    succeed(&two, &[&arms[..], &["--launch", TWO]].concat());
    for (a, b) in runs(&one).iter().zip(runs(&two)) {
        let losses = |run: &Folder| -> Vec<f64> {
            let events = record::read(&run.path().join("metrics.jsonl")).unwrap();
            let loss = |event| match event {
                Event::Step { loss, .. } => Some(loss),
                _ => None,
            };
            events.into_iter().filter_map(loss).collect()
        };
        let (a, b) = (losses(a), losses(&b));
        assert!(a.len() > 1 && a.len() == b.len());
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < ANOTHER_ORDER, "{a} {b}");
        }
    }
}

#[test]
fn a_killed_process_ends_the_run_with_one_error_and_it_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    // Long enough to be killed in the middle, and timed once, as a smoke test is.
    let set = "--preset smoke --arms baseline --set learning_rate=8e-3 --set width=64 --set depth=4 --set heads=4 --set \
               context=128 --set stories=400 --set steps=60 --set evaluations=6 --set test_windows=16 --set \
               tune_windows=16 --set prefix_windows=8";
    let set: Vec<&str> = set.split_whitespace().collect();
    let launched = [&set[..], &["--launch", TWO]].concat();
    succeed(&one, &set);
    let child = command(&two, &launched).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap();
    let run = two.join("gpt2/baseline-set/seed100");
    wait_until("a checkpoint", || has_checkpoint(&run));
    let second = *processes(&run).iter().max().unwrap();
    assert!(Command::new("kill").args(["-9", &second.to_string()]).status().unwrap().success());
    let error = error(&child.wait_with_output().unwrap());
    assert!(error.contains("one of its processes was ended"), "{error}");
    assert!(error.contains("signal 9") && error.lines().count() == 1, "{error}");
    assert!(runs(&two)[0].summary().unwrap().is_none());
    succeed(&two, &launched);
    assert_eq!(records(&one), records(&two));
}

#[test]
fn a_step_has_a_micro_batch_for_every_process() {
    let root = tempfile::tempdir().unwrap();
    let smoke = ["--preset", "smoke", "--arms", "baseline", "--launch"];
    let launch = |launcher: &str| {
        error(&command(root.path(), &[&smoke[..], &[launcher]].concat()).output().unwrap())
    };
    let many = launch("mpirun --oversubscribe -n 3");
    assert!(many.contains("3 processes for 2 micro-batches a step"), "{many}");
    let absent = launch("no-such-launcher -n 2");
    assert!(absent.contains("--launch: cannot start `no-such-launcher`"), "{absent}");
}
