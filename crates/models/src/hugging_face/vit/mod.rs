//! A ViT or DeiT in a folder of Hugging Face, in the layout of transformers or of timm.
//!
//! | folder | model |
//! | --- | --- |
//! | `model_type` `vit` | `ViTForImageClassification`; of `ViTModel` the encoder |
//! | `model_type` `deit` | `DeiTForImageClassificationWithTeacher`; of `DeiTForImageClassification` the encoder |
//! | `architecture` of timm | `vit_*`, `deit_*`, with `model_args` or named by size |
//! | `model_type` `conditioned-vit`, `conditioned-deit` | what [`write()`] makes of a conditioned model |
//!
//! For images of another size than the folder's, set `image_size` after [`read_config`]: the position table is
//! resized as transformers does it (`interpolate_pos_encoding`).
//!
//! ```no_run
//! use std::path::Path;
//! use candle_core::{DType, Device};
//! use conditioned_models::hugging_face::vit;
//! use conditioned_models::vit::Vit;
//! use conditioned_nn::Store;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = Path::new("vit-base-patch16-224");
//! let mut config = vit::read_config(folder)?;
//! config.classes = 10;
//! let store = Store::new(0, DType::F32, &Device::Cpu);
//! let fresh = vit::read_encoder(folder, &config, &store)?.fresh; // the head
//! let model = Vit::new(&config, store.builder())?; // trains on
//! # Ok(())
//! # }
//! ```

mod config;
mod names;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use conditioned_nn::{Store, StoreError};

use self::config::Layout;
use super::{Loaded, positions, timm, weights, write_folder};
use crate::conditioning::ConditioningConfig;
use crate::vit::{Vit, VitConfig};

/// The position table.
const POSITIONS: &str = "pos_embed";

/// Reads `config.json` of a folder. A folder without a head has the classes that its library gives it: 2 in
/// transformers; 1 for timm's 0.
///
/// Dropout and drop path are passed over: an evaluation has none.
///
/// # Errors
/// When the file cannot be read, or asks for a model that [`VitConfig`] cannot be: names key, value and what
/// is wanted.
pub fn read_config(folder: &Path) -> Result<VitConfig, StoreError> {
    config::read_config(folder)
}

/// The names of the classes in their order: `id2label` of transformers, `label_names` of timm. None where the
/// folder has none.
///
/// # Errors
/// When `config.json` cannot be read, or a class has no name.
pub fn read_classes(folder: &Path) -> Result<Vec<String>, StoreError> {
    config::read_classes(folder)
}

/// Puts the weights of a folder into `store`, where the tensors of a [`Vit`] of `config` are made first if
/// they are not there: build the model afterwards.
///
/// The head may be missing in the file, as for a new task; pooler, mask token and heads of other tasks are
/// passed over. A folder without the state of a conditioning, such as a published one, leaves that of the store
/// as it is. A position table for images of another size is resized.
///
/// # Errors
/// When a file is missing or damaged, a tensor is missing, unexpected or of another shape, or holds NaN or
/// infinity; for the one head of `DeiTForImageClassification`, of which no model here makes use. The store then
/// holds what it held, new tensors aside.
pub fn read_weights(
    folder: &Path,
    config: &VitConfig,
    store: &Store,
) -> Result<Loaded, StoreError> {
    read(folder, config, store, true)
}

/// [`read_weights`] for a new task: heads in the folder are of another one and are passed over.
///
/// # Errors
/// As [`read_weights`].
pub fn read_encoder(
    folder: &Path,
    config: &VitConfig,
    store: &Store,
) -> Result<Loaded, StoreError> {
    read(folder, config, store, false)
}

/// A tensor of a file, with its name there.
struct Found {
    name: String,
    tensor: Tensor,
}

fn read(
    folder: &Path,
    config: &VitConfig,
    store: &Store,
    heads: bool,
) -> Result<Loaded, StoreError> {
    let (layout, own) = config::read(folder)?;
    Vit::new(config, store.builder())?;
    let (path, all) = weights::load(folder, "")?;
    let mut found = by_key(&path, layout, all)?;
    let mut loaded = Loaded { fresh: Vec::new(), unused: Vec::new() };
    if !heads {
        let of_heads = found.extract_if(.., |key, _| layout.is_head(key));
        loaded.unused.extend(of_heads.map(|(_, head)| head.name));
    }
    if own.distilled && found.keys().any(|key| key.starts_with(names::ONE_HEAD)) {
        let reason = "`classifier.weight` is the one head of a DeiTForImageClassification; a distilled model \
                      here has two, cls_classifier and distillation_classifier, and is their mean: read the \
                      folder for a new task, without its head, or take a DeiTForImageClassificationWithTeacher";
        return Err(StoreError::Format { path, reason: reason.to_string() });
    }

    let lacks_head = !found.keys().any(|key| layout.is_head(key));
    let mut tensors = weights::kept_state(store, |name| found.contains_key(name))?;
    let (mut taken, mut missing) = (BTreeMap::new(), Vec::new());
    for (name, var) in store.tensors() {
        if tensors.contains_key(&name) {
            continue;
        }
        let keys = layout.keys(&name);
        let is_head = keys.iter().any(|key| layout.is_head(key));
        // A head is there or not: half of one would be completed at random.
        if is_head && lacks_head {
            tensors.insert(name.clone(), var.as_detached_tensor().copy()?);
            loaded.fresh.push(name);
            continue;
        }
        let mut wanted = var.dims().to_vec();
        if let Some(rows) = wanted.first_mut() {
            *rows /= keys.len();
        }
        let mut rows = Vec::new();
        for key in keys {
            let Some(Found { name: part, mut tensor }) = found.remove(&key) else {
                missing.push(layout.full(&key));
                continue;
            };
            if name == POSITIONS && config.image_size != own.image_size {
                tensor = resized(tensor.to_dtype(var.dtype())?, &own, config)?;
            }
            check_shape(&path, &part, &tensor, &wanted, is_head)?;
            rows.push(tensor.to_dtype(var.dtype())?);
            taken.insert(part, tensor);
        }
        match <[Tensor; 1]>::try_from(rows) {
            Ok([tensor]) => drop(tensors.insert(name, tensor)),
            Err(rows) if rows.is_empty() => {}
            Err(rows) => drop(tensors.insert(name, Tensor::cat(&rows, 0)?)),
        }
    }
    let unexpected: Vec<String> =
        found.extract_if(.., |key, _| layout.is_body(key)).map(|(_, other)| other.name).collect();
    if !missing.is_empty() || !unexpected.is_empty() {
        return Err(StoreError::Names { path, missing, unexpected });
    }
    loaded.unused.extend(found.into_values().map(|other| other.name));
    weights::check_finite(&path, &taken)?;
    store.assign(&path, tensors)?;
    Ok(loaded)
}

/// The tensors of a file by their keys.
fn by_key(
    path: &Path,
    layout: Layout,
    tensors: BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Found>, StoreError> {
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for (name, tensor) in tensors {
        let key = layout.key(&name);
        if let Some(other) = found.get(&key) {
            let reason =
                format!("`{name}` is there as `{}` too; save the folder again", other.name);
            return Err(StoreError::Format { path: path.to_path_buf(), reason });
        }
        found.insert(key, Found { name, tensor });
    }
    Ok(found)
}

fn check_shape(
    path: &Path,
    name: &str,
    tensor: &Tensor,
    wanted: &[usize],
    is_head: bool,
) -> Result<(), StoreError> {
    let (path, found) = (path.to_path_buf(), tensor.dims());
    if found == wanted {
        return Ok(());
    }
    if is_head {
        let reason = format!(
            "`{name}` has shape {found:?}, the model wants {wanted:?}: this head is of other classes; take as \
             many, or read the folder for a new task, without its head"
        );
        return Err(StoreError::Format { path, reason });
    }
    let (name, found, expected) = (name.to_string(), found.to_vec(), wanted.to_vec());
    Err(StoreError::Shape { path, name, found, expected })
}

/// The position table of `own` for the images of `config`; a table that is not `own`'s stays, to be refused.
fn resized(table: Tensor, own: &VitConfig, config: &VitConfig) -> candle_core::Result<Tensor> {
    if table.dims() != [1, own.tokens(), own.width] || own.patch_size != config.patch_size {
        return Ok(table);
    }
    let grid = |config: &VitConfig| config.image_size / config.patch_size;
    positions::resize(&table, own.special_tokens(), grid(own), grid(config))
}

/// Writes the model of `store` as it is, in the layout of transformers: to be read here, with the state of its
/// conditioning and without its ramp. Drop path is not kept.
///
/// `classes` are the names of the classes in their order; none are `LABEL_0`, `LABEL_1`, ... as in transformers.
///
/// Without conditioning transformers reads it too. With one, transformers would compute something else; so the
/// model type then is one that it does not know, and [`export`] writes a model for it where that is possible.
///
/// # Errors
/// When there are names of classes and not one for each, or a file cannot be written.
pub fn write(
    folder: &Path,
    config: &VitConfig,
    classes: &[String],
    store: &Store,
) -> Result<(), StoreError> {
    let tensors = store.tensors().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    write_named(folder, config, classes, tensors.collect())
}

/// Writes the model of `store` as a plain ViT or DeiT that computes the same: conditioning is folded into patch
/// embedding, class token, position table and the weights of queries, keys and values.
///
/// Without conditioning this is [`write()`].
///
/// # Errors
/// As [`write()`], or when the conditioning cannot be folded: a method that depends on other tokens, or what is
/// done to the output of attention.
pub fn export(
    folder: &Path,
    config: &VitConfig,
    classes: &[String],
    store: &Store,
) -> Result<(), StoreError> {
    let tensors = timm::folded(config, store)?;
    let plain = VitConfig { conditioning: ConditioningConfig::default(), ..config.clone() };
    write_named(folder, &plain, classes, tensors)
}

/// Tensors under the names of transformers, queries, keys and values each by itself.
fn write_named(
    folder: &Path,
    config: &VitConfig,
    classes: &[String],
    tensors: BTreeMap<String, Tensor>,
) -> Result<(), StoreError> {
    let (layout, json) = (Layout::of(config), config::to_json(folder, config, classes)?);
    let mut named = Vec::new();
    for (name, tensor) in tensors {
        match &*layout.keys(&name) {
            [key] => named.push((layout.full(key), tensor)),
            keys => {
                for (key, rows) in keys.iter().zip(tensor.chunk(keys.len(), 0)?) {
                    named.push((layout.full(key), rows.contiguous()?));
                }
            }
        }
    }
    write_folder(folder, &json, named)
}
