//! Parameters and buffers by name: ordered, seeded per name, frozen, saved and loaded.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atomic_write_file::AtomicWriteFile;
use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::init;

/// The prefix of a buffer's last path component: PyTorch's own convention (`running_mean`).
const BUFFER_PREFIX: &str = "running_";

/// The last path component of a buffer that is computed once and then stays: what Spectral
/// Conditioning adds to the weight beside it.
pub const FIXED_BUFFER: &str = "spectral_conditioning";

/// What went wrong with a file of tensors.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be read or written.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// The file is not a safetensors file, or a tensor in it cannot be used.
    #[error("{path}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Names do not match: a tensor is missing or unexpected.
    #[error("{path}: {}", mismatch(.missing, .unexpected))]
    Names {
        /// The file.
        path: PathBuf,
        /// Names that the model has and the file lacks.
        missing: Vec<String>,
        /// Names that the file has and the model lacks.
        unexpected: Vec<String>,
    },
    /// A tensor has another shape than the model wants.
    #[error("{path}: tensor `{name}` has shape {found:?}, the model wants {expected:?}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// Its shape in the model.
        expected: Vec<usize>,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

fn mismatch(missing: &[String], unexpected: &[String]) -> String {
    let list = |names: &[String]| match names {
        [] => "none".to_string(),
        [first, second, third, _, ..] => {
            format!("{} ({first}, {second}, {third}, ...)", names.len())
        }
        _ => names.join(", "),
    };
    format!(
        "names do not match the model: missing {}; unexpected {}. Check that the checkpoint \
         belongs to this model and layout",
        list(missing),
        list(unexpected)
    )
}

/// The tensors of one model: *parameters* (optimised, decayed, counted) and *buffers* (state such
/// as a pooled Gram: saved and resumed only).
///
/// A tensor is a buffer when the last component of its name begins with `running_` or is
/// [`FIXED_BUFFER`]. A `Store` is
/// filled by building a model over [`Store::builder`]; a name that is asked for twice is the same
/// tensor, which is how weights are tied.
///
/// Cloning a `Store` gives a second handle to the same tensors.
#[derive(Clone)]
pub struct Store {
    tensors: Arc<Mutex<BTreeMap<String, Var>>>,
    seed: u64,
    dtype: DType,
    device: Device,
}

impl Store {
    /// An empty store: parameters are drawn under `seed`, each from a stream keyed by its name.
    pub fn new(seed: u64, dtype: DType, device: &Device) -> Self {
        Self { tensors: Arc::default(), seed, dtype, device: device.clone() }
    }

    /// The [`VarBuilder`] that creates (or finds) tensors in this store.
    ///
    /// `Init::Randn` is truncated at +-2 absolute, see [`init::normal`].
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), self.dtype, self.device.clone())
    }

    /// A [`VarBuilder`] with the same names, for evaluation.
    ///
    /// Parameters are detached and share storage: a model built over them makes no graph and sees
    /// every later optimiser step. Buffers are copied: an evaluation may recalibrate them, and
    /// training goes on as if it had not.
    ///
    /// # Errors
    /// When a buffer cannot be copied.
    pub fn frozen(&self) -> Result<VarBuilder<'static>> {
        let mut tensors = HashMap::new();
        for (name, var) in self.lock().iter() {
            let tensor = if is_buffer(name) {
                Var::from_tensor(&var.as_detached_tensor())?.into_inner()
            } else {
                var.as_detached_tensor()
            };
            tensors.insert(name.clone(), tensor);
        }
        Ok(VarBuilder::from_tensors(tensors, self.dtype, &self.device))
    }

    /// All parameters in name order.
    pub fn parameters(&self) -> Vec<(String, Var)> {
        self.select(|name| !is_buffer(name))
    }

    /// All buffers in name order.
    pub fn buffers(&self) -> Vec<(String, Var)> {
        self.select(is_buffer)
    }

    /// Parameters and buffers in name order.
    pub fn tensors(&self) -> Vec<(String, Var)> {
        self.select(|_| true)
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<Var> {
        self.lock().get(name).cloned()
    }

    /// The number of trainable scalars (buffers not counted).
    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// The device that holds the parameters.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Writes all tensors to a safetensors file, in one step: a reader sees the old file or the
    /// new one, never a part.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(
        &self,
        path: &Path,
        metadata: &BTreeMap<String, String>,
    ) -> std::result::Result<(), StoreError> {
        let tensors: Vec<(String, Tensor)> = self
            .tensors()
            .into_iter()
            .map(|(name, var)| (name, var.as_detached_tensor()))
            .collect();
        save_tensors(path, tensors, metadata)
    }

    /// Replaces every tensor by the one of the same name in a safetensors file.
    ///
    /// Nothing is changed unless everything matches.
    ///
    /// # Errors
    /// When the file cannot be read, a name is missing or unexpected, or a shape differs.
    pub fn load(&self, path: &Path) -> std::result::Result<(), StoreError> {
        self.assign(path, load_tensors(path, &Device::Cpu)?)
    }

    /// Replaces every tensor by the one of the same name in `found`, converted to its dtype; `path`
    /// is where they come from, for errors.
    ///
    /// Nothing is changed unless everything matches.
    ///
    /// # Errors
    /// When a name is missing or unexpected, or a shape differs.
    pub fn assign(
        &self,
        path: &Path,
        mut found: BTreeMap<String, Tensor>,
    ) -> std::result::Result<(), StoreError> {
        let mut missing = Vec::new();
        let mut pairs = Vec::new();
        for (name, var) in self.tensors() {
            match found.remove(&name) {
                None => missing.push(name),
                Some(tensor) if tensor.dims() != var.dims() => {
                    return Err(StoreError::Shape {
                        path: path.to_path_buf(),
                        name,
                        found: tensor.dims().to_vec(),
                        expected: var.dims().to_vec(),
                    });
                }
                Some(tensor) => {
                    let tensor = tensor.to_dtype(var.dtype()).map_err(|e| StoreError::Format {
                        path: path.to_path_buf(),
                        reason: format!("tensor `{name}` cannot be used ({e})"),
                    })?;
                    pairs.push((var, tensor));
                }
            }
        }
        let unexpected: Vec<String> = found.into_keys().collect();
        if !missing.is_empty() || !unexpected.is_empty() {
            return Err(StoreError::Names { path: path.to_path_buf(), missing, unexpected });
        }
        for (var, tensor) in pairs {
            var.set(&tensor.to_device(var.device())?)?;
        }
        Ok(())
    }

    fn select(&self, keep: impl Fn(&str) -> bool) -> Vec<(String, Var)> {
        let tensors = self.lock();
        let kept = tensors.iter().filter(|(name, _)| keep(name));
        kept.map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        self.tensors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the tensor called `name` is a buffer: see [`Store`].
pub fn is_buffer(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    last.starts_with(BUFFER_PREFIX) || last == FIXED_BUFFER
}

impl SimpleBackend for Store {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut tensors = self.lock();
        if let Some(var) = tensors.get(name) {
            if var.shape() != &shape {
                candle_core::bail!(
                    "parameter `{name}` has shape {:?} and is asked for as {shape:?}",
                    var.shape()
                );
            }
            return Ok(var.as_tensor().clone());
        }
        let value = init::sample(init, &shape, dtype, device, init::stream(self.seed, name))?;
        let var = Var::from_tensor(&value)?;
        let tensor = var.as_tensor().clone();
        tensors.insert(name.to_string(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        match self.lock().get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("no parameter `{name}` in the store"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }
}

/// Writes named tensors to a safetensors file through a temporary file beside it, synced and
/// renamed.
///
/// # Errors
/// When the file cannot be written.
pub fn save_tensors(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> std::result::Result<(), StoreError> {
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let bytes = safetensors::serialize(tensors, Some(metadata))
        .map_err(|e| StoreError::Format { path: path.to_path_buf(), reason: e.to_string() })?;
    write_atomic(path, &bytes).map_err(|reason| StoreError::Io { path: path.to_path_buf(), reason })
}

/// Reads all tensors of a safetensors file.
///
/// # Errors
/// When the file cannot be read or is not a safetensors file.
pub fn load_tensors(
    path: &Path,
    device: &Device,
) -> std::result::Result<BTreeMap<String, Tensor>, StoreError> {
    let bytes = std::fs::read(path)
        .map_err(|reason| StoreError::Io { path: path.to_path_buf(), reason })?;
    let tensors =
        candle_core::safetensors::load_buffer(&bytes, device).map_err(|e| StoreError::Format {
            path: path.to_path_buf(),
            reason: format!("not a complete safetensors file ({e})"),
        })?;
    Ok(tensors.into_iter().collect())
}

/// Writes a file so that a reader, or a crash at any instant, sees the old content or the new:
/// temporary file in the same folder, sync, rename, sync of the folder (where the system can sync
/// one: Windows cannot).
///
/// A new file is as readable as any other, a file that is replaced keeps its permissions, and a
/// link is replaced, not followed. A process that is killed may leave the temporary file,
/// `.NAME.` and six letters or digits, beside it.
///
/// # Errors
/// The system's reason, without the path: the caller names it.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = AtomicWriteFile::open(path)?;
    file.write_all(bytes)?;
    file.commit()
}
