//! The real binaries under test: their output, their errors, their records.

#![allow(dead_code)] // Not every test file uses all of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// One binary.
#[derive(Clone, Copy)]
pub(crate) struct Binary(pub(crate) &'static str);

impl Binary {
    /// A command without a keyboard.
    pub(crate) fn command(self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.0);
        // A backtrace is no part of a message.
        command.args(arguments).stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
        command
    }

    /// Runs the command and returns what it printed.
    pub(crate) fn success(self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    }

    /// Runs the command and returns its error, which must be one line without a panic.
    pub(crate) fn failure(self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let text = stderr(&output);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{arguments:?}: {text}");
        assert!(!text.contains("panicked"), "{arguments:?}: {text}");
        errors[0].to_string()
    }

    /// Trains the cell of a folder as `run` does, and returns the first line of its progress.
    pub(crate) fn work(self, folder: &Path, threads: &str) -> String {
        let mut child = self.worker(folder, threads).spawn().unwrap();
        // The worker stops when its input closes.
        let input = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(input);
        assert!(output.status.success());
        stdout(&output).lines().next().unwrap_or_default().to_string()
    }

    /// Trains a finished cell again in `copy`, killed at its first checkpoint and started anew: record and
    /// summary must be the same bits.
    pub(crate) fn resumes(self, cell: &Path, copy: PathBuf) {
        let folder = untrained(cell, copy);
        let mut child = self.worker(&folder, "1").spawn().unwrap();
        let limit = Instant::now() + Duration::from_secs(120);
        let checkpoint = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().path().extension().is_some_and(|extension| extension == "safetensors")
        };
        while !folder.join("checkpoints").read_dir().is_ok_and(|mut d| d.any(checkpoint)) {
            assert!(Instant::now() < limit, "no checkpoint after two minutes");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if !folder.join("summary.json").exists() {
            self.work(&folder, "2");
        }
        for file in ["metrics.jsonl", "summary.json"] {
            let (first, again) = (text(&cell.join(file)), text(&folder.join(file)));
            assert_eq!(first, again, "{}: {file}", cell.display());
        }
    }

    /// A worker as `run` starts it.
    pub(crate) fn worker(self, folder: &Path, threads: &str) -> Command {
        let mut worker = self.command(&["train", folder.to_str().unwrap()]);
        worker.env("RAYON_NUM_THREADS", threads).env("CANDLE_NUM_THREADS", threads);
        worker.stdin(Stdio::piped()).stdout(Stdio::piped());
        worker
    }
}

/// What a process printed.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a process complained of.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The text of a file.
pub(crate) fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `results.csv` without its last column, the commit: two builds may differ in it.
pub(crate) fn results(out: &Path) -> String {
    let lines = text(&out.join("results.csv"));
    lines.lines().map(|line| line.rsplit_once(',').unwrap().0).collect::<Vec<_>>().join("\n")
}

/// A copy of a cell as it is before it is trained.
pub(crate) fn untrained(folder: &Path, copy: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&copy).unwrap();
    std::fs::copy(folder.join("config.json"), copy.join("config.json")).unwrap();
    copy
}
