//! The real binaries under test: their output, their errors, their records.

#![allow(dead_code)] // Not every test file uses all of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use conditioned_train::{Event, Findings, record};

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

    /// Runs the command and returns its one error, which is no panic, with what stands below it: the names that
    /// it knows.
    pub(crate) fn failure(self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let text = stderr(&output);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        let errors = text.lines().filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "{arguments:?}: {text}");
        assert!(!text.contains("panicked"), "{arguments:?}: {text}");
        text.split_once("error: ").unwrap().1.to_string()
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

    /// Trains a finished run again in a copy, killed at its first checkpoint and started anew: it goes on
    /// from there, and record and summary are the same bits.
    pub(crate) fn resumes(self, run: &Path, copy: &Path) {
        // A small run may be through before it is killed, and then nothing would be tested: it is tried again.
        let killed = (0..KILLS).map(|i| self.killed(run, copy.join(i.to_string())));
        let folder = killed.flatten().next();
        let folder = folder.unwrap_or_else(|| panic!("{}: never killed in time", run.display()));
        let first: serde_json::Value = serde_json::from_str(&self.work(&folder, "2")).unwrap();
        assert!(first["step"].as_u64().unwrap() > 1, "{}: it began anew", run.display());
        for file in ["metrics.jsonl", "summary.json"] {
            let (first, again) = (text(&run.join(file)), text(&folder.join(file)));
            assert_eq!(first, again, "{}: {file}", run.display());
        }
    }

    /// A run that was killed after a checkpoint and before its end; `None` when it was too fast.
    fn killed(self, run: &Path, copy: PathBuf) -> Option<PathBuf> {
        let folder = untrained(run, copy);
        let mut child = self.worker(&folder, "1").spawn().unwrap();
        let finished = || folder.join("summary.json").exists();
        wait_until("a checkpoint", || has_checkpoint(&folder) || finished());
        child.kill().unwrap();
        child.wait().unwrap();
        (!finished() && has_checkpoint(&folder)).then_some(folder)
    }

    /// A worker as `run` starts it.
    pub(crate) fn worker(self, folder: &Path, threads: &str) -> Command {
        let mut worker = self.command(&["train", folder.to_str().unwrap()]);
        worker.env("RAYON_NUM_THREADS", threads).env("CANDLE_NUM_THREADS", threads);
        worker.stdin(Stdio::piped()).stdout(Stdio::piped());
        worker
    }
}

/// How often a run is started to be killed in the middle.
const KILLS: usize = 30;

/// How long a test waits for something that takes moments.
const LONGEST: Duration = Duration::from_secs(120);

/// Waits for what another process does.
///
/// # Panics
/// When it is not done after [`LONGEST`].
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LONGEST, "{what}: not after {LONGEST:?}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Whether a run has written a checkpoint.
pub(crate) fn has_checkpoint(folder: &Path) -> bool {
    let is_checkpoint = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == "safetensors"))
    };
    folder.join("checkpoints").read_dir().is_ok_and(|mut files| files.any(is_checkpoint))
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

/// The lines of `results.csv`.
pub(crate) fn lines(out: &Path) -> Vec<HashMap<String, String>> {
    let mut reader = csv::Reader::from_path(out.join("results.csv")).unwrap();
    reader.deserialize().collect::<Result<_, _>>().unwrap()
}

/// The arguments `--set KEY=VALUE` of some pairs.
pub(crate) fn set<'a>(pairs: &[&'a str]) -> Vec<&'a str> {
    pairs.iter().flat_map(|pair| ["--set", *pair]).collect()
}

/// A copy of a run as it is before it is trained.
pub(crate) fn untrained(folder: &Path, copy: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&copy).unwrap();
    std::fs::copy(folder.join("run.json"), copy.join("run.json")).unwrap();
    copy
}

/// What the probes of a finished run found, by step, after everything that holds for all of them was checked: when
/// they are due with one every `every` steps, and what they have. Nothing of a run without.
pub(crate) fn probes(run: &Path, every: usize) -> Vec<(usize, Findings)> {
    let (mut probes, mut last) = (Vec::new(), 0);
    for event in record::read(&run.join("metrics.jsonl")).unwrap() {
        last = last.max(event.step());
        if let Event::Probe { step, metrics, spectra } = event {
            probes.push((step, Findings { metrics, spectra }));
        }
    }
    let place = run.display();
    if probes.is_empty() {
        return probes;
    }
    let steps: Vec<usize> = probes.iter().map(|(step, _)| *step).collect();
    let due: Vec<usize> =
        (0..=last).filter(|step| step.is_multiple_of(every) || *step == last).collect();
    assert_eq!(steps, due, "{place}");
    for (step, Findings { metrics, spectra }) in &probes {
        // Null in the record is infinite.
        let at = |name: &str| {
            let value = *metrics.get(name).unwrap_or_else(|| panic!("{place} {step}: no {name}"));
            if value.is_nan() { f64::INFINITY } else { value }
        };
        let places = ["tokens", "input", "queries", "keys", "attention", "output"];
        let layers = [1, 2].iter().flat_map(|layer| places.map(|p| format!("layer{layer}/{p}")));
        for of in layers.chain(["x".to_string(), "y".to_string()]) {
            for measure in MEASURES {
                let name = format!("{of}/{measure}");
                let (q1, median, q3) =
                    (at(&format!("{name}_q1")), at(&name), at(&format!("{name}_q3")));
                assert!(q1 <= median && median <= q3, "{place} {step} {name}: {q1} {median} {q3}");
                assert!(median.is_finite() || measure.ends_with("kappa"), "{place} {step} {name}");
            }
            let (kappa, effective) =
                (at(&format!("{of}/kappa")), at(&format!("{of}/effective_kappa")));
            assert!(1.0 <= effective && effective <= kappa, "{place} {step} {of}");
            let rank = at(&format!("{of}/effective_rank"));
            let spectrum = &spectra[&of];
            assert!(spectrum.is_sorted_by(|a, b| a >= b), "{place} {step} {of}");
            assert!((1.0..=spectrum.len() as f64 + 1e-6).contains(&rank), "{place} {step} {of}");
        }
    }
    probes
}

/// What a probe measures of every place.
const MEASURES: [&str; 5] =
    ["kappa", "effective_kappa", "effective_rank", "spectral_norm", "entropy"];
