//! Folders of Hugging Face: `config.json` and the weights beside it, read and written.
//!
//! | weights, in the order of search | written by |
//! | --- | --- |
//! | `model.safetensors` | transformers, and the functions here |
//! | `model.safetensors.index.json` and its shards | transformers |
//! | `pytorch_model.bin` | transformers before 5, `torch.save` |
//! | `pytorch_model.bin.index.json` and its shards | transformers before 5 |
//!
//! Values have any float dtype.
//!
//! | module | read | written |
//! | --- | --- | --- |
//! | [`gpt2`] | GPT-2 of transformers | the same |
//! | [`bert`] | BERT of transformers | the same |
//! | [`vit`] | ViT and DeiT of transformers and of timm | those of transformers |
//! | [`timm`] | Swin, XCiT and DaViT of timm; an XCiT as the backbone of a detector | ViT and DeiT of timm |
//!
//! [`open`] reads any of them.

pub mod bert;
mod fields;
pub mod gpt2;
mod open;
mod positions;
pub mod timm;
pub mod vit;
mod weights;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use candle_core::{DType, Tensor};
use conditioned_nn::StoreError;
use conditioned_nn::store::{save_tensors, write_atomic};
use serde_json::Value;

pub use open::open;
pub use weights::{WEIGHTS, weight_files};

/// The file that says what the model is.
const CONFIG: &str = "config.json";

/// What became of names that not every file of a model has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Parameters of pooler and head that were not read, which stay as they were drawn.
    pub fresh: Vec<String>,
    /// Tensors of the file that are of no encoder and not of this model: pooler and heads of other tasks.
    pub unused: Vec<String>,
}

/// Whether two tensors hold the same values; not when they cannot be compared.
fn equal(a: &Tensor, b: &Tensor) -> bool {
    let unequal = || a.ne(b)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>();
    unequal().is_ok_and(|unequal| unequal == 0.0)
}

/// Writes the weights, parameters in f32 as published and the state of a conditioning in its own dtype,
/// and then `config.json`, which is taken away first: a folder that has one is complete.
fn write_folder(
    folder: &Path,
    config: &Value,
    tensors: impl IntoIterator<Item = (String, Tensor)>,
) -> Result<(), StoreError> {
    let io = |path: &Path, reason| StoreError::Io { path: path.to_path_buf(), reason };
    std::fs::create_dir_all(folder).map_err(|e| io(folder, e))?;
    let path = folder.join(CONFIG);
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(io(&path, error));
    }
    let mut named = Vec::new();
    for (name, tensor) in tensors {
        let tensor = if weights::is_state(&name) { tensor } else { tensor.to_dtype(DType::F32)? };
        named.push((name, tensor));
    }
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    save_tensors(&folder.join(weights::SAFETENSORS), named, &metadata)?;
    write_atomic(&path, format!("{config:#}\n").as_bytes()).map_err(|e| io(&path, e))
}
