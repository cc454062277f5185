//! GPT-2 folders of Hugging Face: `config.json` and the weights beside it, read and written.
//!
//! | weights, in the order of search | written by |
//! | --- | --- |
//! | `model.safetensors` | transformers, and [`write()`] and [`export`] here |
//! | `model.safetensors.index.json` and its shards | transformers |
//! | `pytorch_model.bin` | transformers before 5, `torch.save` |
//! | `pytorch_model.bin.index.json` and its shards | transformers before 5 |
//!
//! Names may begin with `transformer.` or not, values have any float dtype. The causal masks that old
//! files hold (`h.N.attn.bias`, `h.N.attn.masked_bias`) are passed over.
//!
//! ```no_run
//! use std::path::Path;
//! use candle_core::{DType, Device};
//! use conditioned_models::gpt2::Gpt2;
//! use conditioned_models::hugging_face;
//! use conditioned_nn::Store;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = Path::new("gpt2");
//! let config = hugging_face::read_config(folder)?;
//! let store = Store::new(0, DType::F32, &Device::Cpu);
//! hugging_face::read_weights(folder, &config, &store)?;
//! let model = Gpt2::new(&config, store.builder())?; // trains on
//! # Ok(())
//! # }
//! ```

mod config;
mod weights;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use candle_core::{DType, Tensor};
use conditioned_nn::store::{save_tensors, write_atomic};
use conditioned_nn::{Store, StoreError};

use crate::conditioning::{ConditioningConfig, Method};
use crate::gpt2::{Gpt2, Gpt2Config};

pub use config::read_config;

/// What the names of the base model begin with in a model with a head.
const PREFIX: &str = "transformer.";

/// The token table, the position table and the head.
const WTE: &str = "wte.weight";
const WPE: &str = "wpe.weight";
const HEAD: &str = "lm_head.weight";

/// Puts the weights of a folder into `store`, where the tensors of a [`Gpt2`] of `config` are made
/// first if they are not there: build the model afterwards.
///
/// A folder without the state of a conditioning (`conditioner.running_*`), such as a published one,
/// leaves that of the store as it is.
///
/// # Errors
/// When a file is missing or damaged, a tensor is missing, unexpected or of another shape, or a tied
/// head differs from the token table. The store then holds what it held, new tensors aside.
pub fn read_weights(folder: &Path, config: &Gpt2Config, store: &Store) -> Result<(), StoreError> {
    Gpt2::new(config, store.builder())?;
    let (path, mut tensors) = weights::load(folder)?;
    if config.tie_word_embeddings
        && let Some(head) = tensors.remove(HEAD)
    {
        let table = tensors.get(WTE);
        if !table.is_some_and(|table| equal(table, &head)) {
            let reason = format!(
                "`{HEAD}` differs from `{WTE}`, and config.json says that they are tied; set \
                 tie_word_embeddings to false there"
            );
            return Err(StoreError::Format { path, reason });
        }
    }
    let buffers = store.buffers();
    if !buffers.iter().any(|(name, _)| tensors.contains_key(name)) {
        for (name, var) in buffers {
            tensors.insert(name, var.as_detached_tensor().copy()?);
        }
    }
    store.assign(&path, tensors)
}

/// Whether two tensors hold the same values; not when they cannot be compared.
fn equal(a: &Tensor, b: &Tensor) -> bool {
    let unequal = || a.ne(b)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>();
    unequal().is_ok_and(|unequal| unequal == 0.0)
}

/// Writes the model of `store` as it is: to be read here, with the state of its conditioning.
///
/// Without conditioning transformers reads it too. With one, transformers would compute something
/// else; so the model type then is one that its `Auto` classes refuse (`GPT2LMHeadModel` warns), and
/// [`export`] writes a model for it. `end_of_text` is the token after which generation stops there. The deviations of the
/// initialisation are not kept.
///
/// `config.json` is taken away first and written last: a folder that has one is complete.
///
/// # Errors
/// When a file cannot be written.
pub fn write(
    folder: &Path,
    config: &Gpt2Config,
    store: &Store,
    end_of_text: Option<u32>,
) -> Result<(), StoreError> {
    let tensors = store.tensors().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    write_folder(folder, config, end_of_text, tensors.collect())
}

/// Writes the model of `store` as a plain GPT-2 that computes the same: conditioning is folded into
/// the tables, and the head, which multiplies with the raw token table, is untied from it.
///
/// Without conditioning this is [`write()`].
///
/// # Errors
/// When a file cannot be written, or the method is not causal and cannot be folded.
pub fn export(
    folder: &Path,
    config: &Gpt2Config,
    store: &Store,
    end_of_text: Option<u32>,
) -> Result<(), StoreError> {
    if config.conditioning.method == Method::None {
        return write(folder, config, store, end_of_text);
    }
    let model = Gpt2::new(config, store.frozen()?)?;
    let (tokens, positions) = model.folded_tables()?;
    let parameters = store.parameters().into_iter();
    let mut tensors: BTreeMap<String, Tensor> =
        parameters.map(|(name, var)| (name, var.as_detached_tensor())).collect();
    tensors.insert(HEAD.into(), model.head().clone());
    tensors.insert(WTE.into(), tokens);
    tensors.insert(WPE.into(), positions);
    let plain = Gpt2Config {
        tie_word_embeddings: false,
        conditioning: ConditioningConfig::default(),
        allow_future_leak: false,
        ..config.clone()
    };
    write_folder(folder, &plain, end_of_text, tensors)
}

/// Parameters in f32, as published; the state of a conditioning in its own f64.
fn write_folder(
    folder: &Path,
    config: &Gpt2Config,
    end_of_text: Option<u32>,
    tensors: BTreeMap<String, Tensor>,
) -> Result<(), StoreError> {
    let io = |path: &Path, source| StoreError::Io { path: path.to_path_buf(), source };
    std::fs::create_dir_all(folder).map_err(|e| io(folder, e))?;
    let path = folder.join(config::FILE);
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(io(&path, error));
    }
    let mut named = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        named.push(match name.as_str() {
            HEAD => (name, tensor.to_dtype(DType::F32)?),
            _ if weights::is_state(&name) => (format!("{PREFIX}{name}"), tensor),
            _ => (format!("{PREFIX}{name}"), tensor.to_dtype(DType::F32)?),
        });
    }
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    save_tensors(&folder.join(weights::SAFETENSORS), named, &metadata)?;
    let json = format!("{:#}\n", config::to_json(config, end_of_text)?);
    write_atomic(&path, json.as_bytes()).map_err(|e| io(&path, e))
}
