//! The folder of one run: what it is, who writes it, what came out.
//!
//! ```text
//! run.json           the whole configuration, written before anything else
//! environment.json   commit, compiler, processor or GPU, and peak memory of what trained it
//! metrics.jsonl      one line an event of training
//! log.jsonl          what the processes that trained it had to say
//! checkpoints/       to resume, until the run is complete
//! model.safetensors  the weights of a finished run of a table, and tokenizer.json of a language model
//! summary.json       the result; its presence says that the run is complete
//! ```

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use candle_core::Device;
use conditioned_nn::store::write_atomic;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cell::{FORMAT, RunConfig, Summary};
use crate::run::worker::peak_memory;

/// The configuration of a run.
const CONFIG: &str = "run.json";
/// The result of a run that is complete.
const SUMMARY: &str = "summary.json";
/// Pictures of what a finished run finds, where its task draws any.
pub const PICTURES: &str = "pictures.png";

/// The commit of this binary, with `+changes.HASH` when its sources had any.
pub const COMMIT: &str = env!("BUILD_COMMIT");

/// Where the numbers of a run come from.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// The commit of the binary: [`COMMIT`].
    pub commit: String,
    /// The compiler.
    pub rustc: String,
    /// This workspace's version.
    pub version: String,
    /// Operating system and processor architecture.
    pub platform: String,
    /// The vector instructions that the kernels found: golden bits differ between them.
    pub simd: String,
    /// The name of the GPU that computed, where a driver tells.
    pub gpu: Option<String>,
    /// The largest peak memory in MiB of the processes that came to an end in it: no two are the
    /// same, so it stands here and in no result.
    pub peak_mib: Option<f64>,
}

impl Environment {
    /// That of this process, which computes on `device` and has not come to its end.
    pub fn here(device: &Device) -> Self {
        Self {
            commit: COMMIT.to_string(),
            rustc: env!("BUILD_RUSTC").to_string(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            simd: simd().to_string(),
            gpu: conditioned_nn::cuda::name(device),
            peak_mib: None,
        }
    }

    /// Whether the two differ in memory at most.
    fn is_like(&self, other: &Self) -> bool {
        Self { peak_mib: None, ..self.clone() } == Self { peak_mib: None, ..other.clone() }
    }
}

fn simd() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "avx512";
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "avx2";
        }
    }
    "baseline"
}

/// A run's folder.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the folder is free for a run of `config`: it is not there, holds the same
    /// configuration, or one that was never begun.
    ///
    /// # Errors
    /// When it belongs to a run of another configuration or layout, or that cannot be read.
    pub fn check(&self, config: &RunConfig) -> Result<()> {
        if !self.is_begun() {
            return Ok(());
        }
        let there = self.config()?;
        if there != *config {
            bail!(
                "{}: this folder holds a run of another configuration; choose another --out, or \
                 remove it to start anew. They differ in {}",
                self.path.display(),
                there.difference(config)?
            );
        }
        Ok(())
    }

    /// Whether its run was begun: there is something to lose.
    pub fn is_begun(&self) -> bool {
        ["metrics.jsonl", SUMMARY].iter().any(|file| self.path.join(file).exists())
    }

    /// Checks that the folder still holds `config`, which was claimed.
    ///
    /// # Errors
    /// When another command has claimed it since.
    pub fn check_claim(&self, config: &RunConfig) -> Result<()> {
        let there = self.config()?;
        if there != *config || there.device.0 != config.device.0 {
            bail!(
                "{}: another command has put another configuration there meanwhile; give each its own --out",
                self.path.display()
            );
        }
        Ok(())
    }

    /// Creates the folder with its configuration.
    ///
    /// # Errors
    /// Those of [`Folder::check`], when another process trains the run, and when it cannot be written.
    pub fn claim(&self, config: &RunConfig) -> Result<()> {
        self.check(config)?;
        std::fs::create_dir_all(&self.path)
            .with_context(|| format!("{}: cannot create the run folder", self.path.display()))?;
        let (file, text) = (self.path.join(CONFIG), json(config)?);
        // Byte by byte: configurations are equal where only the folders of their files differ.
        if std::fs::read_to_string(&file).is_ok_and(|claimed| claimed == text) {
            return Ok(());
        }
        // Whoever trains the run holds the lock.
        let _lock = self.lock()?;
        self.check(config)?;
        write_atomic(&file, text.as_bytes()).with_context(|| file.display().to_string())
    }

    /// Records that this process trains the run on `device`, after the others that did.
    ///
    /// # Errors
    /// When the record cannot be read or written.
    pub fn enter(&self, device: &Device) -> Result<()> {
        let file = self.environment_file();
        let mut trained: Vec<Environment> = if file.exists() { read(&file)? } else { Vec::new() };
        let here = Environment::here(device);
        if !trained.last().is_some_and(|last| last.is_like(&here)) {
            trained.push(here);
            write(&file, &trained)?;
        }
        Ok(())
    }

    /// Records the peak memory of this process, at its end, after [`Folder::enter`].
    ///
    /// # Errors
    /// When the record cannot be read or written.
    pub fn leave(&self) -> Result<()> {
        let mut trained = self.environments()?;
        if let (Some(last), Some(peak)) = (trained.last_mut(), peak_memory()) {
            last.peak_mib = Some(last.peak_mib.unwrap_or(0.0).max(peak));
        }
        write(&self.environment_file(), &trained)
    }

    fn environment_file(&self) -> PathBuf {
        self.path.join("environment.json")
    }

    /// Whether it holds a run, of whatever layout.
    pub fn is_run(&self) -> bool {
        let old = || self.path.join("config.json").exists() && self.path.join("lock").exists();
        self.path.join(CONFIG).exists() || old()
    }

    /// The configuration.
    ///
    /// # Errors
    /// When the folder holds a run of another layout, or the file is missing or damaged.
    pub fn config(&self) -> Result<RunConfig> {
        let path = self.path.join(CONFIG);
        let other_layout = |path: &Path| {
            anyhow!(
                "{}: a run of another version of this project, whose records have another layout: it can \
                 neither be continued nor reported by this one. Choose another --out, or move the folder away",
                path.display()
            )
        };
        if !path.exists() && self.is_run() {
            return Err(other_layout(&self.path));
        }
        let json: serde_json::Value = read(&path)?;
        if json.get("format").and_then(serde_json::Value::as_u64) != Some(u64::from(FORMAT)) {
            return Err(other_layout(&path));
        }
        serde_json::from_value(json).with_context(|| path.display().to_string())
    }

    /// Where its numbers come from: every environment that trained it, in order.
    ///
    /// # Errors
    /// When the file is missing or of another form.
    pub fn environments(&self) -> Result<Vec<Environment>> {
        read(&self.environment_file())
    }

    /// The commits that trained it, in order.
    ///
    /// # Errors
    /// When the record is missing or of another form.
    pub fn commits(&self) -> Result<String> {
        let commits = self.environments()?.into_iter().map(|e| e.commit);
        Ok(commits.collect::<Vec<_>>().join(" then "))
    }

    /// The result, if the run is complete.
    ///
    /// # Errors
    /// When the file is of another form.
    pub fn summary(&self) -> Result<Option<Summary>> {
        let file = self.path.join(SUMMARY);
        if !file.exists() {
            return Ok(None);
        }
        let read = || anyhow::Ok(serde_json::from_str(&std::fs::read_to_string(&file)?)?);
        read().map(Some).with_context(|| {
            let file = file.display();
            format!(
                "{file}: cannot be read; if it is damaged, remove it, and `run` trains the run anew"
            )
        })
    }

    /// Writes the result: the run is complete.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(&self, summary: &Summary) -> Result<()> {
        write(&self.path.join(SUMMARY), summary)
    }

    /// Keeps other writers out for as long as the returned file lives.
    ///
    /// # Errors
    /// When another process writes this run.
    pub fn lock(&self) -> Result<File> {
        let path = self.path.join("lock");
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                bail!("{}: another process is writing this run", self.path.display())
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| path.display().to_string())
            }
        }
    }
}

/// Every folder below `root` that holds a run, in path order.
///
/// # Errors
/// When a folder cannot be read.
pub fn find(root: &Path) -> Result<Vec<Folder>> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(path) = pending.pop() {
        if Folder::new(&path).is_run() {
            found.push(Folder::new(path));
            continue;
        }
        let entries = std::fs::read_dir(&path).with_context(|| path.display().to_string())?;
        for entry in entries {
            let entry = entry?.path();
            if entry.is_dir() {
                pending.push(entry);
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Reads a JSON file.
///
/// # Errors
/// When it is missing or of another form; the file is named.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// What is in a JSON file.
fn json<T: Serialize>(value: &T) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Writes a JSON file in one step.
///
/// # Errors
/// When it cannot be written; the file is named.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    write_atomic(path, json(value)?.as_bytes()).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_memory_is_the_largest_of_all_that_trained() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let large = Environment { peak_mib: Some(1e9), ..Environment::here(&Device::Cpu) };
        let other = Environment { commit: "another".to_string(), ..large.clone() };
        write(&folder.environment_file(), &[&other]).unwrap();
        folder.enter(&Device::Cpu).unwrap();
        folder.leave().unwrap();
        let [first, second] = &folder.environments().unwrap()[..] else { panic!() };
        assert_eq!(*first, other);
        assert!(second.is_like(&large) && second.peak_mib.is_none_or(|mib| mib > 1.0 && mib < 1e9));
        assert_eq!(second.peak_mib.is_some(), peak_memory().is_some());

        // A process that goes on with the run in the same environment.
        write(&folder.environment_file(), &[&large]).unwrap();
        folder.enter(&Device::Cpu).unwrap();
        folder.leave().unwrap();
        assert_eq!(folder.environments().unwrap(), [large]);
    }
}
