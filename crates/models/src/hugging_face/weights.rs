//! The weights of a folder, in whichever files they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::pickle::PthTensors;
use candle_core::safetensors::BufferedSafetensors;
use candle_core::{Device, Tensor};
use conditioned_nn::StoreError;
use conditioned_nn::store::FIXED_BUFFER;
use serde::Deserialize;

/// The file that is written.
pub(super) const SAFETENSORS: &str = "model.safetensors";

/// Where the weights of a folder are looked for, in this order; an index names the files of its shards.
pub const WEIGHTS: [&str; 4] = [
    SAFETENSORS,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Whether a tensor is state of a conditioning rather than a parameter.
pub(super) fn is_state(name: &str) -> bool {
    name.split('.').any(|part| part == "conditioner" || part == FIXED_BUFFER)
}

/// The file that stands for the weights of a folder, and all tensors by their names without `prefix`.
pub(super) fn load(
    folder: &Path,
    prefix: &str,
) -> Result<(PathBuf, BTreeMap<String, Tensor>), StoreError> {
    let Some(file) = WEIGHTS.iter().find(|file| folder.join(file).is_file()) else {
        let reason = format!("no weights in this folder; looked for {}", WEIGHTS.join(", "));
        return Err(StoreError::Format { path: folder.to_path_buf(), reason });
    };
    let path = folder.join(file);
    let files = match file.ends_with(".json") {
        true => shards(folder, &path)?,
        false => vec![path.clone()],
    };
    let mut tensors = BTreeMap::new();
    for file in files {
        for (name, tensor) in read(&file)? {
            let name = name.strip_prefix(prefix).unwrap_or(&name).to_string();
            if tensors.contains_key(&name) {
                let reason = format!("a second tensor `{name}`; fetch or save the folder again");
                return Err(StoreError::Format { path: file, reason });
            }
            tensors.insert(name, tensor);
        }
    }
    Ok((path, tensors))
}

/// The part of an index that is of use: the file of each tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files that an index names.
fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let fail = |reason| StoreError::Format { path: index.to_path_buf(), reason };
    let bytes = read_bytes(index)?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|e| fail(format!("not an index of shards ({e}); fetch it again")))?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    let files = files.into_iter().map(|file| {
        let path = folder.join(&file);
        match path.is_file() {
            true => Ok(path),
            false => Err(fail(format!("names the shard {file}, which is missing; fetch it"))),
        }
    });
    files.collect()
}

/// All tensors of a file but masks.
fn read(path: &Path) -> Result<Vec<(String, Tensor)>, StoreError> {
    let (kind, tensors) = match path.extension().is_some_and(|extension| extension == "safetensors")
    {
        true => ("safetensors", read_safetensors(read_bytes(path)?)),
        false => ("PyTorch", read_pickle(path)),
    };
    tensors.map_err(|e| {
        let reason = format!(
            "not a complete {kind} file of floats ({e}); fetch it again, or load it in \
             transformers and save it as safetensors"
        );
        StoreError::Format { path: path.to_path_buf(), reason }
    })
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|source| StoreError::Io { path: path.to_path_buf(), source })
}

fn read_safetensors(bytes: Vec<u8>) -> candle_core::Result<Vec<(String, Tensor)>> {
    let file = BufferedSafetensors::new(bytes)?;
    let names = file.tensors().into_iter().map(|(name, _)| name).filter(|name| !is_mask(name));
    names.map(|name| Ok((name.clone(), file.load(&name, &Device::Cpu)?))).collect()
}

fn read_pickle(path: &Path) -> candle_core::Result<Vec<(String, Tensor)>> {
    let file = PthTensors::new(path, None)?;
    let names = file.tensor_infos().keys().filter(|name| !is_mask(name));
    names.filter_map(|name| Some(file.get(name).transpose()?.map(|t| (name.clone(), t)))).collect()
}

/// Whether this is a mask of causal attention and no parameter.
fn is_mask(name: &str) -> bool {
    name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
}
