//! ViT and DeiT as folders of timm: `timm.create_model("local-dir:FOLDER", pretrained=True)` reads them. Such
//! folders are read by [`vit`](super::vit), those of Swin, XCiT and DaViT here.
//!
//! `config.json` names an architecture of timm and the arguments that make it this network; the weights
//! have timm's names. Source: timm 1.0, `timm/models/_hub.py`, `load_model_config_from_path`.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use conditioned_nn::{Store, StoreError};
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::{CONFIG, weights, write_folder};
use crate::architecture::{Architecture, Input};
use crate::conditioning::ConditioningConfig;
use crate::network::Network;
use crate::vit::{EPS, Vit, VitConfig};
use crate::xcit::{Trunk, XcitConfig};

/// Width, depth and heads by the name of a size.
const SIZES: [(&str, usize, usize, usize); 4] =
    [("tiny", 192, 12, 3), ("small", 384, 12, 6), ("base", 768, 12, 12), ("large", 1024, 24, 16)];

/// Arguments that say how a model trains or takes other images, and not what it is.
const PASSED_OVER: [&str; 6] = [
    "weight_init",
    "fix_init",
    "dynamic_img_size",
    "dynamic_img_pad",
    "strict_img_size",
    "pool_include_prefix",
];

/// Arguments that are read.
const READ: [&str; 8] = [
    "img_size",
    "patch_size",
    "in_chans",
    "num_classes",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
];

/// The weight of the patch embedding, (C, channels, p, p).
const PATCHES: &str = "patch_embed.proj.weight";

/// The configuration in a `config.json` of timm: sizes by `model_args`, and what these leave out by the name of
/// the architecture, as `vit_SIZE_patchP_S` and `deit_SIZE[_distilled]_patchP_S`.
pub(super) fn read_config(file: &Fields) -> Result<VitConfig, StoreError> {
    let (args, pretrained) = (file.section("model_args")?, file.section("pretrained_cfg")?);
    let named = file.get("architecture").and_then(Value::as_str).and_then(of_name);
    let named = named.ok_or_else(|| {
        let sizes = SIZES.map(|(size, ..)| size).join(", ");
        let wanted = format!(
            "vit_SIZE_patchP_S, deit_SIZE_patchP_S or deit_SIZE_distilled_patchP_S, SIZE one of {sizes}"
        );
        file.wrong("architecture", &wanted)
    })?;
    file.absent_or("global_pool", &[json!("token")])?;
    check_arguments(&args)?;
    // Old files have at their root what stands in `pretrained_cfg` today.
    let input = [&pretrained, file].into_iter().find(|file| file.get("input_size").is_some());
    let (channels, side) = match input {
        Some(file) => input_size(file)?,
        None => (named.channels, named.image_size),
    };
    let classes = file.size_or("num_classes", pretrained.size_or("num_classes", named.classes)?)?;
    let ratio = args.real("mlp_ratio", named.mlp_ratio as f64)?;
    if ratio.fract() != 0.0 || !(1.0..1e6).contains(&ratio) {
        return Err(args.wrong("mlp_ratio", "a whole number"));
    }
    Ok(VitConfig {
        image_size: args.side_or("img_size", side)?,
        patch_size: args.side_or("patch_size", named.patch_size)?,
        channels: args.size_or("in_chans", channels)?,
        classes: args.size_or("num_classes", classes)?.max(1),
        width: args.size_or("embed_dim", named.width)?,
        depth: args.size_or("depth", named.depth)?,
        heads: args.size_or("num_heads", named.heads)?,
        mlp_ratio: ratio as usize,
        ..named
    })
}

/// Buffers of timm that no evaluation needs: they follow from the sizes, or count steps.
const DERIVED: [&str; 3] = ["relative_position_index", "attn_mask", "num_batches_tracked"];

/// The families of timm whose names of tensors are the ones here.
const PYRAMIDS: [&str; 3] = ["swin_", "xcit_", "davit_"];

/// Whether an architecture of timm is a Swin, XCiT or DaViT.
pub(super) fn is_pyramid(architecture: &str) -> bool {
    PYRAMIDS.iter().any(|start| architecture.starts_with(start))
}

/// Reads a Swin, XCiT or DaViT that is one of the presets of [`Network`], with any number of classes: its weights
/// go into `store`.
///
/// # Errors
/// When the architecture is another one or has other arguments, or weights are missing, damaged or of another shape.
pub(super) fn read_pyramid(folder: &Path, store: &Store) -> Result<Network, StoreError> {
    let file = Fields::read(folder.join(CONFIG), "timm")?;
    let args = file.section("model_args")?;
    let read = ["num_classes", "img_size", "in_chans", "global_pool"];
    let known =
        |key: &str| read.contains(&key) || PASSED_OVER.contains(&key) || key.contains("drop");
    if let Some(key) = args.keys().find(|key| !known(key)) {
        return Err(args.wrong(key, "absent: networks of other arguments cannot be read"));
    }
    let name = file.get("architecture").and_then(Value::as_str).unwrap_or_default();
    let name = name.split('.').next().unwrap_or_default();
    let mut network = Network::preset(name).map_err(|_| {
        let known: Vec<&str> = Network::presets()
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| is_pyramid(name))
            .collect();
        file.wrong("architecture", &format!("one of {}", known.join(", ")))
    })?;
    let pool = if matches!(network, Network::Xcit(_)) { "token" } else { "avg" };
    for section in [&file, &args] {
        section.absent_or("global_pool", &[json!(pool), Value::Null])?;
    }
    if let Input::Images { channels, side, classes } = network.input() {
        let pretrained = file.section("pretrained_cfg")?;
        let classes = file.size_or("num_classes", pretrained.size_or("num_classes", classes)?)?;
        network.set_classes(args.size_or("num_classes", classes)?)?;
        let sizes = (args.size_or("in_chans", channels)?, args.side_or("img_size", side)?);
        if sizes != (channels, side) {
            let wanted = format!("of {channels} channels and {side} pixels a side, as {name} has");
            return Err(file.wrong("model_args", &wanted));
        }
    }
    network.build(store.builder())?;
    let (path, mut tensors) = weights::load(folder, "")?;
    tensors.retain(|name, _| !DERIVED.iter().any(|end| name.ends_with(end)));
    weights::check_finite(&path, &tensors)?;
    store.assign(&path, tensors)?;
    Ok(network)
}

/// Starts the names of an XCiT in a detector.
const BACKBONE: &str = "backbone";

/// What an XCiT has behind its blocks, for classes of images.
const OF_CLASSES: [&str; 5] = ["cls_token", "cls_attn_blocks.", "norm.", "head.", "head_dist."];

/// Reads the patches, positions and blocks of an XCiT of timm, of any classes and image size, as the backbone of a detector:
/// they go to the names of `store` that begin with `backbone`, which are created where there are none, and all else in it
/// stays. Returns the names of what is for classes of images, which is passed over.
///
/// # Errors
/// When weights are missing, damaged, of another shape, or of more than `config` has.
pub fn read_backbone(
    folder: &Path,
    config: &XcitConfig,
    store: &Store,
) -> Result<Vec<String>, StoreError> {
    let (path, mut tensors) = weights::load(folder, "")?;
    tensors.retain(|name, _| !DERIVED.iter().any(|end| name.ends_with(end)));
    weights::check_finite(&path, &tensors)?;
    let of_classes = |name: &String| OF_CLASSES.iter().any(|start| name.starts_with(start));
    let unused = tensors.extract_if(.., |name, _| of_classes(name)).map(|(name, _)| name).collect();
    Trunk::new(config, &store.builder().pp(BACKBONE))?;
    let trunk = Store::new(0, DType::F32, &Device::Cpu);
    Trunk::new(config, &trunk.builder().pp(BACKBONE))?;
    let mut found: BTreeMap<String, Tensor> =
        tensors.into_iter().map(|(name, tensor)| (format!("{BACKBONE}.{name}"), tensor)).collect();
    for (name, var) in store.tensors() {
        if trunk.get(&name).is_none() || weights::is_state(&name) {
            let own = var.as_detached_tensor().copy()?;
            found.entry(name).or_insert(own);
        }
    }
    store.assign(&path, found)?;
    Ok(unused)
}

/// Channels and side in `input_size`, [channels, side, side].
fn input_size(file: &Fields) -> Result<(usize, usize), StoreError> {
    let sizes = file.get("input_size").and_then(Value::as_array).map(Vec::as_slice);
    let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    match sizes {
        Some([channels, height, width]) if height == width => {
            Option::zip(number(channels), number(height))
        }
        _ => None,
    }
    .map(|(channels, side)| (channels as usize, side as usize))
    .ok_or_else(|| file.wrong("input_size", "[channels, side, side]"))
}

/// Refuses arguments that make another network.
fn check_arguments(args: &Fields) -> Result<(), StoreError> {
    let fixed: [(&str, &[Value]); 17] = [
        ("global_pool", &[json!("token")]),
        ("qkv_bias", &[json!(true)]),
        ("qk_norm", &[json!(false)]),
        ("scale_attn_norm", &[json!(false)]),
        ("scale_mlp_norm", &[json!(false)]),
        ("proj_bias", &[json!(true)]),
        ("init_values", &[Value::Null]),
        ("class_token", &[json!(true)]),
        ("pos_embed", &[json!("learn")]),
        ("no_embed_class", &[json!(false)]),
        ("reg_tokens", &[json!(0)]),
        ("pre_norm", &[json!(false)]),
        ("final_norm", &[json!(true)]),
        ("fc_norm", &[Value::Null, json!(false)]),
        ("embed_norm_layer", &[Value::Null]),
        ("norm_layer", &[Value::Null]),
        ("act_layer", &[Value::Null, json!("gelu")]),
    ];
    for key in args.keys() {
        match fixed.iter().find(|(known, _)| *known == key) {
            Some((_, wanted)) => args.one_of(key, wanted)?,
            None if READ.contains(&key) || PASSED_OVER.contains(&key) || key.contains("drop") => {}
            None => return Err(args.wrong(key, "no such argument; take another checkpoint")),
        }
    }
    Ok(())
}

/// The network that timm calls so, whatever it was trained on.
fn of_name(name: &str) -> Option<VitConfig> {
    // `vit_base_patch16_224.augreg_in21k`, and before there were tags `vit_base_patch16_224_in21k`.
    let name = name.split('.').next()?;
    let trained = ["_in21k", "_dino", "_sam"];
    let name = trained.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let name = name.strip_prefix("vit_").or_else(|| name.strip_prefix("deit_"))?;
    let (size, rest) = name.split_once("_patch")?;
    let (patch, side) = rest.split_once('_')?;
    let (size, distilled) = match size.strip_suffix("_distilled") {
        Some(size) => (size, true),
        None => (size, false),
    };
    let &(_, width, depth, heads) = SIZES.iter().find(|(known, ..)| *known == size)?;
    let number = |text: &str| text.parse::<u32>().ok().map(|n| n as usize);
    Some(VitConfig {
        image_size: number(side)?,
        patch_size: number(patch)?,
        channels: 3,
        classes: 1000,
        width,
        depth,
        heads,
        mlp_ratio: 4,
        drop_path: 0.0,
        table_std: 0.02,
        distilled,
        eps: EPS,
        conditioning: ConditioningConfig::default(),
    })
}

/// The parameters, by timm's names, of a plain ViT that computes what the model of `store` does: conditioning is
/// folded into patch embedding, class token, position table and the weights of queries, keys and values.
///
/// # Errors
/// When the conditioning cannot be folded: a method that depends on other tokens, or what is done to the output
/// of attention.
pub(super) fn folded(
    config: &VitConfig,
    store: &Store,
) -> Result<BTreeMap<String, Tensor>, StoreError> {
    let model = Vit::new(config, store.frozen()?)?;
    let mut tensors = weights::plain_parameters(store);
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
    Ok(tensors)
}

/// Writes the model of `store` as a plain ViT that computes the same: conditioning is folded into patch
/// embedding, class token and position table. `images` are the entries of timm's `pretrained_cfg` that say how
/// images are prepared: `mean`, `std`, `crop_pct`, `crop_mode`, `interpolation`.
///
/// # Errors
/// When a file cannot be written, or the conditioning cannot be folded: a method that depends on other tokens, or
/// what is done to the output of attention; when the layer norms have another epsilon than timm's.
pub fn export(
    folder: &Path,
    config: &VitConfig,
    images: &Map<String, Value>,
    store: &Store,
) -> Result<(), StoreError> {
    if config.eps != EPS {
        let reason = format!(
            "the layer norms of this model have eps {:e}, and those of timm's ViT {EPS:e}; write it for \
             transformers (hugging_face::vit::export)",
            config.eps
        );
        return Err(StoreError::Format { path: folder.join(CONFIG), reason });
    }
    let tensors = folded(config, store)?;
    let size = config.image_size;
    let mut json = json!({
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
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    });
    for (key, value) in images {
        json["pretrained_cfg"][key] = value.clone();
    }
    write_folder(folder, &json, tensors)
}
