//! Damaged records of runs and tables: see `crates/data/tests/support/corruption.rs`.

#![allow(clippy::unwrap_used)]

#[path = "../../crates/data/tests/support/corruption.rs"]
#[allow(dead_code)] // These binaries have an allocator of their own.
mod damage;
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use experiments::arm::Arm;
use experiments::budget::Shares;
use experiments::results;
use experiments::run::folder::Folder;
use experiments::run::timing;
use experiments::run::worker::peak_memory;
use experiments::search::{Search, Tuned};
use tempfile::TempDir;

use damage::{Cut, corrupt};
use support::Binary;

const TOY: Binary = Binary(env!("CARGO_BIN_EXE_toy-table"));

/// How far the peak of the whole process rises, in bytes.
fn risen(work: &mut dyn FnMut()) -> usize {
    let peak = || peak_memory().unwrap_or(0.0);
    let before = peak();
    work();
    ((peak() - before) * f64::from(1 << 20)) as usize
}

/// Damages one file over which `read` is run.
fn check<T>(reader: &str, path: &Path, cut: Cut, read: impl Fn() -> Result<T> + Send + 'static) {
    corrupt(reader, [path.to_path_buf()], cut, risen, move || {
        read().map(drop).map_err(|error| format!("{error:#}"))
    });
}

/// Without white space at the end, which may be cut off.
fn trim(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, text.trim_end()).unwrap();
}

/// A folder with one file.
fn file(name: &str, content: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content.trim_end()).unwrap();
    (folder, path)
}

#[test]
fn run_folders_and_timings() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("out");
    let short = ["--arms", "baseline", "--seeds", "1", "--set", "epochs=1"];
    let rate = ["--set", "learning_rate=1e-3", "--out", out.to_str().unwrap()];
    TOY.success(&[&short[..], &rate].concat());
    let run = out.join("vit/baseline-set/seed100");
    for name in ["run.json", "environment.json", "summary.json"] {
        trim(&run.join(name));
    }
    let folder = || Folder::new(&run);
    let read = folder();
    check("run.json", &run.join("run.json"), Cut::Known, move || read.config());
    let read = folder();
    check("environment.json", &run.join("environment.json"), Cut::Known, move || {
        read.environments()
    });
    let read = folder();
    check("summary.json", &run.join("summary.json"), Cut::Known, move || read.summary());

    let path = out.join("timings.csv");
    let timings = timing::read(&out).unwrap();
    let read = out.clone();
    check("timings.csv", &path, Cut::Lines, move || timing::read(&read));

    // Another arm, which takes as long.
    let baseline = folder().config().unwrap();
    let mut pooled = baseline.clone();
    pooled.cell.arm = Arm::POOLED;
    let mut timings = [timings[0].clone(), timings[0].clone()];
    timings[1].arm = Arm::POOLED;
    let runs = [baseline, pooled];
    Shares::keep(&out, &timings, &runs).unwrap();
    let path = out.join("budgets.json");
    trim(&path);
    check("budgets.json", &path, Cut::Known, move || {
        Ok(Shares::keep(&out, &[], &runs)?.at_equal_time(&runs))
    });
}

#[test]
fn results_csv() {
    let lines = include_str!("../table1_imagenet/results/short/results.csv");
    let lines = lines.lines().take(12).map(|line| format!("{line}\n")).collect::<String>();
    let (_folder, path) = file("results.csv", &lines);
    let (file, rows) = (path.clone(), ["vit", "deit"].map(String::from));
    check("results.csv", &path, Cut::Lines, move || results::read(&file, "images", &rows));
}

#[test]
fn tuned_json() {
    let (_folder, path) = file("tuned.json", include_str!("../table1_imagenet/tuned/smoke.json"));
    let file = path.clone();
    check("tuned.json", &path, Cut::Known, move || {
        let known = ["vit", "deit", "swin", "xcit", "davit"].map(String::from);
        let tuned = Tuned::open(None, Some(&file), "smoke", &known)?;
        Ok(tuned.best("vit", Arm::BASELINE).map(Search::starts).ok())
    });
}
