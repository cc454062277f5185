//! ViT and DeiT as folders of timm: `timm.create_model("local-dir:FOLDER", pretrained=True)` reads them.
//!
//! `config.json` names an architecture of timm and every argument that makes it this network; the weights
//! have timm's names. Source: timm 1.0, `timm/models/_hub.py`, `load_model_config_from_path`.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use conditioned_nn::{Store, StoreError};
use serde_json::json;

use super::write_folder;
use crate::vit::{Vit, VitConfig};

/// The weight of the patch embedding, (C, channels, p, p).
const PATCHES: &str = "patch_embed.proj.weight";

/// Writes the model of `store` as a plain ViT that computes the same: conditioning is folded into patch
/// embedding, class token and position table. `mean` and `std` are those by which images are normalised, a
/// number a channel.
///
/// # Errors
/// When a file cannot be written, or the conditioning cannot be folded: a method that depends on other tokens, or
/// what is done to the output of attention.
pub fn export(
    folder: &Path,
    config: &VitConfig,
    (mean, std): (&[f32], &[f32]),
    store: &Store,
) -> Result<(), StoreError> {
    let model = Vit::new(config, store.frozen()?)?;
    let parameters = store.parameters().into_iter();
    let mut tensors: BTreeMap<String, Tensor> =
        parameters.map(|(name, var)| (name, var.as_detached_tensor())).collect();
    tensors.extend(model.folded_weights()?);
    for (name, tensor) in &mut tensors {
        *tensor = match name.as_str() {
            // Rows of W^T are what a pixel adds to a token.
            PATCHES => {
                let shape = tensor.shape().clone();
                model.fold(&tensor.flatten_from(1)?.t()?.contiguous()?)?.t()?.reshape(shape)?
            }
            "patch_embed.proj.bias" => model.fold(&tensor.unsqueeze(0)?)?.squeeze(0)?,
            "cls_token" | "dist_token" | "pos_embed" => {
                model.fold_positions(&tensor.squeeze(0)?)?.unsqueeze(0)?
            }
            _ => continue,
        };
    }
    let size = config.image_size;
    let config = json!({
        "architecture": match config.distilled {
            true => "deit_base_distilled_patch16_224",
            false => "vit_base_patch16_224",
        },
        "num_classes": config.classes,
        "model_args": {
            "img_size": size,
            "patch_size": config.patch_size,
            "in_chans": config.channels,
            "embed_dim": config.width,
            "depth": config.depth,
            "num_heads": config.heads,
            "mlp_ratio": config.mlp_ratio,
        },
        "pretrained_cfg": {
            "num_classes": config.classes,
            "input_size": [config.channels, size, size],
            "fixed_input_size": true,
            "crop_pct": 1.0,
            "mean": mean,
            "std": std,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    });
    write_folder(folder, &config, tensors)
}
