//! A folder of any family.

use std::path::Path;

use conditioned_nn::{Store, StoreError};
use serde_json::Value;

use super::fields::Fields;
use super::{CONFIG, bert, gpt2, timm, vit};
use crate::architecture::Architecture;
use crate::encoder::EncoderConfig;
use crate::network::Network;

/// Reads the model of a folder, without the heads of BERT: its configuration, and its weights into `store`, which
/// must be empty; [`Architecture::build`](crate::Architecture::build) makes a model over them.
///
/// `model_type` of transformers decides (`bert`, `gpt2`, `vit`, `deit`, and this project's own), else the
/// `architecture` of timm (ViT, DeiT, Swin, XCiT, DaViT), else, in old files of BERT and GPT-2, the first of
/// `architectures`.
///
/// # Errors
/// When configuration or weights are missing, damaged, of another model than these, or do not fit each other.
pub fn open(folder: &Path, store: &Store) -> Result<Network, StoreError> {
    let file = Fields::read(folder.join(CONFIG), "folder")?;
    let text = |key: &str| file.get(key).and_then(Value::as_str).unwrap_or_default();
    let (model_type, architecture) = (text("model_type"), text("architecture"));
    let classes = file.get("architectures").and_then(|list| list.get(0)?.as_str());
    let model_type = match (model_type, classes) {
        // As the readers of both take old files.
        ("", Some(class)) if architecture.is_empty() && class.starts_with("GPT2") => "gpt2",
        ("", Some(class)) if architecture.is_empty() && class.starts_with("Bert") => "bert",
        _ => model_type,
    };
    match model_type.strip_prefix("conditioned-").unwrap_or(model_type) {
        "gpt2" => {
            let config = gpt2::read_config(folder)?;
            gpt2::read_weights(folder, &config, store)?;
            Ok(Network::Gpt2(config))
        }
        "bert" => {
            let config = bert::read_config(folder)?;
            config.build(store.builder())?;
            bert::read_weights(folder, store)?;
            Ok(Network::Encoder(EncoderConfig::Bert(config)))
        }
        "" if timm::is_pyramid(architecture) => timm::read_pyramid(folder, store),
        "vit" | "deit" => read_vit(folder, store),
        "" if !architecture.is_empty() => read_vit(folder, store),
        _ => Err(file.wrong(
            "model_type",
            "\"bert\", \"gpt2\", \"vit\" or \"deit\", or an `architecture` of timm: ViT, DeiT, Swin, XCiT or DaViT; \
             where it is missing, add it",
        )),
    }
}

fn read_vit(folder: &Path, store: &Store) -> Result<Network, StoreError> {
    let config = vit::read_config(folder)?;
    vit::read_weights(folder, &config, store)?;
    Ok(Network::Vit(config))
}
