//! The content of one checkpoint: tensors by name, and the rest of a run's state as metadata.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::finite;
use crate::task::Metrics;

/// The layout of a checkpoint; another number in a file is an error.
const FORMAT: u32 = 1;

/// The one key of the metadata: safetensors writes several in random order, and equal states
/// should be equal files.
const STATE: &str = "state";

/// The part of a checkpoint that is no tensor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: u32,
    version: String,
    config_hash: String,
    step: usize,
    #[serde(with = "finite::metrics")]
    metrics: Metrics,
}

/// A checkpoint that was read.
#[derive(Debug)]
pub struct Snapshot {
    /// Its file.
    pub path: PathBuf,
    /// Optimiser steps done.
    pub step: usize,
    /// The last evaluation.
    pub metrics: Metrics,
    /// Newer checkpoints that were damaged, under the names that they now have.
    pub set_aside: Vec<PathBuf>,
    tensors: BTreeMap<String, Tensor>,
}

/// The bytes of a checkpoint; `folder` is named in errors.
pub(crate) fn encode(
    folder: &Path,
    config_hash: &str,
    step: usize,
    metrics: &Metrics,
    tensors: Vec<(String, Tensor)>,
) -> Result<Vec<u8>> {
    let state = State {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_string(),
        config_hash: config_hash.to_string(),
        step,
        metrics: metrics.clone(),
    };
    let state = serde_json::to_string(&state).map_err(|e| failed(folder, e.to_string()))?;
    // candle's serialisation panics where a copy from the device fails, so copy first.
    let host: Vec<(String, Tensor)> = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?)))
        .collect::<Result<_>>()?;
    let metadata = HashMap::from([(STATE.to_string(), state)]);
    safetensors::serialize(host, Some(metadata)).map_err(|e| failed(folder, e.to_string()))
}

/// The checkpoint in `bytes`, read from `path` by the run with this configuration.
pub(crate) fn decode(path: PathBuf, bytes: &[u8], config_hash: &str) -> Result<Snapshot> {
    let (_, header) =
        SafeTensors::read_metadata(bytes).map_err(|e| failed(&path, e.to_string()))?;
    let state = header.metadata().as_ref().and_then(|metadata| metadata.get(STATE));
    let state = state.ok_or_else(|| failed(&path, "has no state in its metadata".to_string()))?;
    let state: State = serde_json::from_str(state).map_err(|e| failed(&path, e.to_string()))?;
    if state.format != FORMAT {
        let (format, version) = (state.format, state.version);
        let reason = format!(
            "has format {format} (version {version}), and this version reads {FORMAT}; go on with the other \
                 version, or remove the folder of the run to start anew"
        );
        return Err(failed(&path, reason));
    }
    if state.config_hash != config_hash {
        let (found, expected) = (state.config_hash, config_hash.to_string());
        return Err(TrainError::OtherConfiguration { path, found, expected });
    }
    let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)
        .map_err(|e| failed(&path, e.to_string()))?;
    Ok(Snapshot {
        path,
        step: state.step,
        metrics: state.metrics,
        set_aside: Vec::new(),
        tensors: tensors.into_iter().collect(),
    })
}

impl Snapshot {
    /// Takes out the tensor called `name`, on the CPU.
    ///
    /// # Errors
    /// When it is missing, or has another shape or dtype than `like`.
    pub fn take(&mut self, name: &str, like: &Tensor) -> Result<Tensor> {
        let reason = match self.tensors.remove(name) {
            Some(t) if t.shape() == like.shape() && t.dtype() == like.dtype() => return Ok(t),
            Some(t) => format!(
                "tensor `{name}` is {:?} {:?}, the run wants {:?} {:?}",
                t.dtype(),
                t.shape(),
                like.dtype(),
                like.shape()
            ),
            None => format!(
                "has no tensor `{name}`, which the run wants; restore the file, or remove the folder of the run to \
                 start anew"
            ),
        };
        Err(failed(&self.path, reason))
    }

    /// Checks that every tensor was taken.
    ///
    /// # Errors
    /// Names those that are left.
    pub fn finish(self) -> Result<()> {
        if self.tensors.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        let reason = format!(
            "has tensors that the run does not know: {}; restore the file, or remove the folder of the run to start \
             anew",
            names.join(", ")
        );
        Err(failed(&self.path, reason))
    }
}

fn failed(path: &Path, reason: String) -> TrainError {
    TrainError::Checkpoint { path: path.to_path_buf(), reason }
}
