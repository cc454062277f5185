//! The weights of a folder, in whichever files they are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::pickle::{Object, PthTensors, Stack, TensorInfo};
use candle_core::safetensors::BufferedSafetensors;
use candle_core::{DType, Device, Tensor};
use conditioned_nn::store::FIXED_BUFFER;
use conditioned_nn::{Store, StoreError};
use serde::Deserialize;
use zip::ZipArchive;

/// The file that is written.
pub(super) const SAFETENSORS: &str = "model.safetensors";

/// Where the weights of a folder are looked for, in this order; an index names the files of its shards.
pub const WEIGHTS: [&str; 4] = [
    SAFETENSORS,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// The start of a zip archive, as files of PyTorch are since 1.6.
const ZIP: &[u8] = b"PK\x03\x04";

/// The start of what stands in the place of a large file in a clone without Git LFS.
const POINTER: &[u8] = b"version https://git-lfs";

/// The modules whose classes and functions files of weights name; none of them is called here.
const KNOWN: [&str; 4] = ["torch", "collections", "numpy", "_codecs"];

/// Whether a tensor is state of a conditioning rather than a parameter.
pub(super) fn is_state(name: &str) -> bool {
    name.split('.').any(|part| part == "conditioner" || part == FIXED_BUFFER)
}

/// The parameters of the plain model in a store: what is left once a conditioning is folded away.
pub(super) fn plain_parameters(store: &Store) -> BTreeMap<String, Tensor> {
    let parameters = store.parameters().into_iter().filter(|(name, _)| !is_state(name));
    parameters.map(|(name, var)| (name, var.as_detached_tensor())).collect()
}

/// The state of a conditioning that a store keeps, of tokens and of weights each by itself: all of it where the folder
/// has none, such as a published one, and nothing where it has some.
pub(super) fn kept_state(
    store: &Store,
    is_in_folder: impl Fn(&str) -> bool,
) -> candle_core::Result<BTreeMap<String, Tensor>> {
    let of_weights = |name: &str| name.ends_with(FIXED_BUFFER);
    let mut state = store.tensors();
    state.retain(|(name, _)| is_state(name));
    let there = [false, true]
        .map(|kind| state.iter().any(|(name, _)| of_weights(name) == kind && is_in_folder(name)));
    state.retain(|(name, _)| !there[usize::from(of_weights(name))]);
    state.into_iter().map(|(name, var)| Ok((name, var.as_detached_tensor().copy()?))).collect()
}

/// The files that the weights of a folder are read from, in the order of their names.
///
/// # Errors
/// When there is none, or an index of shards is damaged or names one that is missing.
pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    Ok(files(folder)?.1.into_iter().map(|(file, _)| file).collect())
}

/// Files of weights, and the tensors that are promised of each.
type Promised = Vec<(PathBuf, Vec<String>)>;

/// The file that stands for the weights of a folder, and those that they are in.
fn files(folder: &Path) -> Result<(PathBuf, Promised), StoreError> {
    let Some(file) = WEIGHTS.iter().find(|file| folder.join(file).is_file()) else {
        let reason = format!("no weights in this folder; looked for {}", WEIGHTS.join(", "));
        return Err(StoreError::Format { path: folder.to_path_buf(), reason });
    };
    let path = folder.join(file);
    let files = match file.ends_with(".json") {
        true => shards(folder, &path)?,
        false => vec![(path.clone(), Vec::new())],
    };
    Ok((path, files))
}

/// The file that stands for the weights of a folder, and all tensors by their names without `prefix`.
pub(super) fn load(
    folder: &Path,
    prefix: &str,
) -> Result<(PathBuf, BTreeMap<String, Tensor>), StoreError> {
    let (path, files) = files(folder)?;
    let mut tensors = BTreeMap::new();
    for (file, promised) in files {
        let found = read(&file)?;
        let lacks = |name: &&String| !found.iter().any(|(other, _)| other == *name);
        if let Some(name) = promised.iter().filter(|name| !is_mask(name)).find(lacks) {
            let index = path.display();
            let reason = format!("no tensor `{name}`, which {index} promises; fetch both again");
            return Err(StoreError::Format { path: file, reason });
        }
        for (name, tensor) in found {
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

/// Bytes of the files that the weights of a folder are read from; none where they cannot be.
pub(super) fn bytes(folder: &Path) -> Option<u64> {
    let size = |file: PathBuf| Some(std::fs::metadata(file).ok()?.len());
    weight_files(folder).ok()?.into_iter().map(size).sum()
}

/// Checks that the values of tensors are finite.
pub(super) fn check_finite(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<(), StoreError> {
    for (name, tensor) in tensors {
        if let Some(value) = not_finite(tensor)? {
            let reason = format!(
                "`{name}` holds {value}: no model computes with that. Take another checkpoint, or an f32 one \
                 where this is f16"
            );
            return Err(StoreError::Format { path: file_of(path, name), reason });
        }
    }
    Ok(())
}

/// The file of a tensor: of shards the one that the index names.
fn file_of(path: &Path, name: &str) -> PathBuf {
    let index = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let shard = index.and_then(|Index { weight_map }| {
        let found = weight_map
            .into_iter()
            .find(|(full, _)| full.ends_with(name) || name.ends_with(&**full))?;
        Some(path.with_file_name(found.1))
    });
    shard.unwrap_or_else(|| path.to_path_buf())
}

/// The part of an index that is of use: the file of each tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files that an index names, and the tensors that it promises of each.
fn shards(folder: &Path, index: &Path) -> Result<Promised, StoreError> {
    let fail = |reason| StoreError::Format { path: index.to_path_buf(), reason };
    let bytes = read_bytes(index)?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|e| fail(format!("not an index of shards ({e}); fetch it again")))?;
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, file) in index.weight_map {
        files.entry(file).or_default().push(name);
    }
    let files = files.into_iter().map(|(file, names)| {
        let path = folder.join(&file);
        match path.is_file() {
            true => Ok((path, names)),
            false => Err(fail(format!("names the shard {file}, which is missing; fetch it"))),
        }
    });
    files.collect()
}

/// All tensors of a file but masks.
fn read(path: &Path) -> Result<Vec<(String, Tensor)>, StoreError> {
    let mut start = Vec::new();
    let mut file = File::open(path).map_err(io_error(path))?.take(POINTER.len() as u64);
    file.read_to_end(&mut start).map_err(io_error(path))?;
    if start == POINTER {
        let reason = "a pointer of Git LFS, and not the weights; run `git lfs pull` in the folder, or fetch the \
                      file itself";
        return Err(StoreError::Format { path: path.to_path_buf(), reason: reason.to_string() });
    }
    let is_safetensors = path.extension().is_some_and(|extension| extension == "safetensors");
    if !is_safetensors && !start.starts_with(ZIP) {
        let name = path.file_name().unwrap_or_default().display();
        let reason = format!(
            "no zip archive: it was written by PyTorch before 1.6, or is not whole. If it loads there, write it \
             anew: python -c \"import torch; torch.save(torch.load('{name}', map_location='cpu'), '{name}')\""
        );
        return Err(StoreError::Format { path: path.to_path_buf(), reason });
    }
    if !is_safetensors && let Some(class) = foreign_class(path) {
        let reason = format!(
            "it names {class}, which no tensor needs: a pickle with code in it, which Python would run. Nothing \
             of it was run or read. Take another checkpoint, at best one of safetensors"
        );
        return Err(StoreError::Format { path: path.to_path_buf(), reason });
    }
    let (kind, tensors) = match is_safetensors {
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

/// The first NaN or infinity among the values of a tensor, if there is one.
fn not_finite(tensor: &Tensor) -> candle_core::Result<Option<f64>> {
    if !tensor.dtype().is_float() {
        return Ok(None);
    }
    let values = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        // Most are this: without a copy in f64.
        DType::F32 => {
            values.to_vec1::<f32>()?.into_iter().find(|value| !value.is_finite()).map(f64::from)
        }
        _ => {
            let values: Vec<f64> = values.to_dtype(DType::F64)?.to_vec1()?;
            values.into_iter().find(|value| !value.is_finite())
        }
    })
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> StoreError + '_ {
    move |reason| StoreError::Io { path: path.to_path_buf(), reason }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(io_error(path))
}

fn read_safetensors(bytes: Vec<u8>) -> candle_core::Result<Vec<(String, Tensor)>> {
    let file = BufferedSafetensors::new(bytes)?;
    let names = file.tensors().into_iter().map(|(name, _)| name).filter(|name| !is_mask(name));
    names.map(|name| Ok((name.clone(), file.load(&name, &Device::Cpu)?))).collect()
}

/// candle takes what such a file says at its word, lengths too, and does not compare checksums: all of
/// it is compared first.
fn read_pickle(path: &Path) -> candle_core::Result<Vec<(String, Tensor)>> {
    let read = || {
        compare_checksums(path)?;
        let file = PthTensors::new(path, None)?;
        let length = path.metadata()?.len();
        for (name, info) in file.tensor_infos() {
            let mut sizes = info.layout.dims().iter();
            let size = info.dtype.size_in_bytes() as u64;
            let bytes = sizes.try_fold(size, |bytes, &n| bytes.checked_mul(n as u64));
            if bytes.is_none_or(|bytes| bytes > length) {
                let shape = info.layout.dims();
                candle_core::bail!("`{name}` has shape {shape:?}, more than the file holds");
            }
        }
        let infos = file.tensor_infos().iter().filter(|(name, _)| !is_mask(name));
        let read = |(name, info): (&String, &TensorInfo)| {
            let tensor = match info.layout.is_contiguous() || info.layout.is_fortran_contiguous() {
                true => file.get(name).transpose()?,
                false => gather(path, info),
            };
            Some(tensor.map(|tensor| (name.clone(), tensor)))
        };
        infos.filter_map(read).collect()
    };
    // candle panics over objects that PyTorch does not write.
    let caught = catch_unwind(AssertUnwindSafe(read));
    caught.unwrap_or_else(|_| candle_core::bail!("its parts contradict each other"))
}

/// A tensor whose elements do not lie in order, as those of convolutions with channels last.
fn gather(path: &Path, info: &TensorInfo) -> candle_core::Result<Tensor> {
    let mut archive = ZipArchive::new(BufReader::new(File::open(path)?))?;
    let mut bytes = Vec::new();
    archive.by_name(&info.path)?.read_to_end(&mut bytes)?;
    let count = bytes.len() / info.dtype.size_in_bytes();
    let layout = &info.layout;
    // candle has the start of a tensor of a pickle in bytes.
    let start = layout.start_offset() / info.dtype.size_in_bytes();
    let place = |mut i: usize| {
        let mut place = start;
        for (size, stride) in layout.dims().iter().zip(layout.stride()).rev() {
            place += i % size * stride;
            i /= size;
        }
        place
    };
    let places: Vec<usize> = (0..layout.shape().elem_count()).map(place).collect();
    if places.iter().any(|&place| place >= count) {
        candle_core::bail!("`{}` goes beyond the {count} numbers of its storage", info.name);
    }
    let whole = &bytes[..count * info.dtype.size_in_bytes()];
    let storage = Tensor::from_raw_buffer(whole, info.dtype, &[count], &Device::Cpu)?;
    let places: Vec<u32> = places.into_iter().map(|place| place as u32).collect();
    let n = places.len();
    storage.index_select(&Tensor::from_vec(places, n, &Device::Cpu)?, 0)?.reshape(layout.shape())
}

/// What a pickle names beside tensors, the first such class or function. A pickle that cannot be followed
/// to its end is left to [`read_pickle`] and its reasons.
fn foreign_class(path: &Path) -> Option<String> {
    let find = || {
        let open = || ZipArchive::new(BufReader::new(File::open(path).ok()?)).ok();
        let mut archive = open()?;
        for i in 0..archive.len() {
            let mut entry = archive.by_index(i).ok()?;
            if !entry.name().ok()?.ends_with("data.pkl") {
                continue;
            }
            // Damage must not look like code.
            io::copy(&mut entry, &mut io::sink()).ok()?;
            drop(entry);
            let mut pickle = BufReader::new(archive.by_index(i).ok()?);
            let mut stack = Stack::empty();
            while !stack.read(&mut pickle).ok()? {
                // A name is on top of the stack before anything can be done with it.
                if let Some(Object::Class { module_name, class_name }) = stack.stack().last()
                    && !KNOWN.contains(&module_name.split('.').next().unwrap_or_default())
                {
                    return Some(format!("{module_name}.{class_name}"));
                }
            }
        }
        None
    };
    catch_unwind(AssertUnwindSafe(find)).ok().flatten()
}

fn compare_checksums(path: &Path) -> candle_core::Result<()> {
    let mut archive = ZipArchive::new(BufReader::new(File::open(path)?))?;
    for i in 0..archive.len() {
        io::copy(&mut archive.by_index(i)?, &mut io::sink())?;
    }
    Ok(())
}

/// Whether this is a mask of causal attention and no parameter.
fn is_mask(name: &str) -> bool {
    name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
}
