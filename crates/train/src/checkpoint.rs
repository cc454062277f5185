//! Checkpoints: one file each, named by its content, so that the rename is the commit.
//!
//! `step-00000600-1f0c9a4b5d6e7f80.safetensors` holds every tensor of the run and, as metadata, the
//! rest of its state; the 16 digits are the start of the BLAKE3 hash of the whole file. The file is
//! written beside, synced and renamed, and only then is an older one removed: a run killed at any
//! instant finds the newest whole checkpoint. A file whose content does not match its name is set
//! aside as `*.corrupt`, and the one before it is used.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use conditioned_nn::store::write_atomic;

use crate::error::{Result, TrainError};
use crate::snapshot::{self, Snapshot};
use crate::task::Metrics;

/// Checkpoints kept: the newest, and one before it in case the newest is damaged.
const KEEP: usize = 2;

/// Hexadecimal digits of the hash in a file name: 64 bits, against damage, not against an enemy.
const DIGITS: usize = 16;

/// The folder of checkpoints of one run.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    config_hash: String,
}

impl Checkpoints {
    /// Opens (or creates) a folder for the run with this configuration.
    ///
    /// # Errors
    /// When the folder cannot be created or read.
    pub fn open(folder: &Path, config_hash: &str) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        let checkpoints =
            Self { folder: folder.to_path_buf(), config_hash: config_hash.to_string() };
        checkpoints.remove_unfinished()?;
        Ok(checkpoints)
    }

    /// Writes a checkpoint, then removes all but the newest two.
    ///
    /// # Errors
    /// When it cannot be written; the older ones then stand.
    pub fn save(
        &self,
        step: usize,
        metrics: &Metrics,
        tensors: Vec<(String, Tensor)>,
    ) -> Result<PathBuf> {
        let bytes = snapshot::encode(&self.folder, &self.config_hash, step, metrics, tensors)?;
        let path = self.folder.join(format!("step-{step:08}-{}.safetensors", digits(&bytes)));
        write_atomic(&path, &bytes).map_err(TrainError::io(&path))?;
        for old in self.files()?.into_iter().skip(KEEP).filter(|old| *old != path) {
            std::fs::remove_file(&old).map_err(TrainError::io(&old))?;
        }
        Ok(path)
    }

    /// Reads the newest whole checkpoint; `None` when there is none at all.
    ///
    /// # Errors
    /// When every checkpoint is damaged (all are named), or the newest whole one belongs to
    /// another configuration or format.
    pub fn latest(&self) -> Result<Option<Snapshot>> {
        let mut damaged = Vec::new();
        for path in self.files()? {
            let bytes = std::fs::read(&path).map_err(TrainError::io(&path))?;
            if !path.to_string_lossy().ends_with(&format!("-{}.safetensors", digits(&bytes))) {
                damaged.push(path);
                continue;
            }
            let mut snapshot = snapshot::decode(path, &bytes, &self.config_hash)?;
            for path in damaged {
                let aside = path.with_extension("safetensors.corrupt");
                std::fs::rename(&path, &aside).map_err(TrainError::io(&path))?;
                snapshot.set_aside.push(aside);
            }
            return Ok(Some(snapshot));
        }
        if damaged.is_empty() {
            return Ok(None);
        }
        let names: Vec<String> = damaged.iter().map(|path| path.display().to_string()).collect();
        let reason = format!(
            "no checkpoint is whole (the content does not match the hash in the name): {}. Restore \
             one, or remove them to start anew",
            names.join(", ")
        );
        Err(TrainError::Checkpoint { path: self.folder.clone(), reason })
    }

    /// All checkpoints, the newest first.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let is_checkpoint =
            |name: &str| name.starts_with("step-") && name.ends_with(".safetensors");
        let mut files = self.list(is_checkpoint)?;
        files.sort_by_key(|path| std::cmp::Reverse(step_of(path)));
        Ok(files)
    }

    /// Removes what a kill in the middle of a write left behind: a run folder has one writer.
    fn remove_unfinished(&self) -> Result<()> {
        for path in self.list(|name| name.starts_with(".step-"))? {
            std::fs::remove_file(&path).map_err(TrainError::io(&path))?;
        }
        Ok(())
    }

    fn list(&self, keep: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(TrainError::io(&self.folder))? {
            let entry = entry.map_err(TrainError::io(&self.folder))?;
            if entry.file_name().to_str().is_some_and(&keep) {
                paths.push(entry.path());
            }
        }
        Ok(paths)
    }
}

fn digits(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..DIGITS].to_string()
}

/// The step in a file name; a name without one sorts as the oldest.
fn step_of(path: &Path) -> Option<usize> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.split('-').next()?.parse().ok()
}
