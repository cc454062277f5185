//! What `config.json` says of a ViT: the layout of its folder, sizes, names of classes.

use std::path::Path;

use conditioned_nn::StoreError;
use serde_json::{Map, Value, json};

use super::super::CONFIG;
use super::super::fields::Fields;
use super::super::timm;
use crate::architecture::Architecture;
use crate::conditioning::ConditioningConfig;
use crate::vit::VitConfig;

/// The epsilon of layer norms where transformers' file names none.
const EPS: f64 = 1e-12;

/// The classes where transformers' file names none.
const CLASSES: usize = 2;

/// Whose names and settings a folder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// timm's.
    Timm,
    /// Those of transformers.
    Transformers {
        /// A DeiT: it has a distillation token.
        distilled: bool,
        /// With our field `conditioning`; transformers does not know these model types.
        conditioned: bool,
    },
}

/// The model types of transformers, and ours.
const MODEL_TYPES: [(&str, Layout); 4] = [
    ("vit", Layout::Transformers { distilled: false, conditioned: false }),
    ("deit", Layout::Transformers { distilled: true, conditioned: false }),
    ("conditioned-vit", Layout::Transformers { distilled: false, conditioned: true }),
    ("conditioned-deit", Layout::Transformers { distilled: true, conditioned: true }),
];

impl Layout {
    /// The layout in which a model is written for transformers, or with its conditioning.
    pub(super) fn of(config: &VitConfig) -> Self {
        let conditioned = !config.conditioning.is_plain();
        Self::Transformers { distilled: config.distilled, conditioned }
    }

    fn of_file(file: &Fields) -> Result<Self, StoreError> {
        match file.get("model_type").and_then(Value::as_str) {
            Some(found) if let Some((_, layout)) = MODEL_TYPES.iter().find(|t| t.0 == found) => {
                Ok(*layout)
            }
            None if file.get("architecture").is_some() => Ok(Self::Timm),
            None => {
                Err(file.wrong("model_type", r#""vit" or "deit", or the `architecture` of timm"#))
            }
            Some(_) => Err(file
                .one_of("model_type", &MODEL_TYPES.map(|(name, _)| json!(name)))
                .err()
                .unwrap_or_else(|| file.wrong("model_type", r#""vit" or "deit""#))),
        }
    }
}

/// Layout and configuration of a folder.
pub(super) fn read(folder: &Path) -> Result<(Layout, VitConfig), StoreError> {
    let file = Fields::read(folder.join(CONFIG), "ViT")?;
    let layout = Layout::of_file(&file)?;
    Ok((layout, parse(&file, layout)?))
}

/// The configuration of a folder, whose weights can be those of it.
pub(super) fn read_config(folder: &Path) -> Result<VitConfig, StoreError> {
    let file = Fields::read(folder.join(CONFIG), "ViT")?;
    let config = parse(&file, Layout::of_file(&file)?)?;
    let VitConfig { channels, patch_size, width, depth, mlp_ratio, .. } = config;
    let [channels, patch_size, width, depth, mlp_ratio, tokens] =
        [channels, patch_size, width, depth, mlp_ratio, config.tokens()].map(|size| size as u128);
    let block = width * (4 + 2 * mlp_ratio);
    file.check_weights(width * (channels * patch_size.pow(2) + tokens + depth * block))?;
    Ok(config)
}

fn parse(file: &Fields, layout: Layout) -> Result<VitConfig, StoreError> {
    let config = match layout {
        Layout::Timm => timm::read_config(file)?,
        Layout::Transformers { distilled, conditioned } => {
            of_transformers(file, distilled, conditioned)?
        }
    };
    config.validate().map_err(|e| file.fail(e.to_string()))?;
    Ok(config)
}

fn of_transformers(
    file: &Fields,
    distilled: bool,
    conditioned: bool,
) -> Result<VitConfig, StoreError> {
    let (width, heads) = (file.size("hidden_size")?, file.size("num_attention_heads")?);
    // These may be absent, which means the first of the values.
    file.absent_or("hidden_act", &[json!("gelu"), json!("gelu_python")])?;
    file.absent_or("qkv_bias", &[json!(true)])?;
    file.absent_or("head_dim", &[Value::Null, json!(width / heads.max(1))])?;
    let hidden = file.size("intermediate_size")?;
    if width == 0 || !hidden.is_multiple_of(width) {
        let wanted = format!("a multiple of `hidden_size`, which is {width}");
        return Err(file.wrong("intermediate_size", &wanted));
    }
    Ok(VitConfig {
        image_size: file.side("image_size")?,
        patch_size: file.side("patch_size")?,
        channels: file.size("num_channels")?,
        classes: match file.get("id2label").and_then(Value::as_object) {
            // An encoder without a head may have been saved with none.
            Some(labels) => labels.len().max(1),
            None => file.size_or("num_labels", CLASSES)?,
        },
        width,
        depth: file.size("num_hidden_layers")?,
        heads,
        mlp_ratio: hidden / width,
        drop_path: 0.0,
        table_std: file.real("initializer_range", 0.02)?,
        distilled,
        eps: file.real("layer_norm_eps", EPS)?,
        conditioning: match conditioned {
            true => file.conditioning()?,
            false => ConditioningConfig::default(),
        },
    })
}

/// The names of the classes in their order; none where the file has none.
pub(super) fn read_classes(folder: &Path) -> Result<Vec<String>, StoreError> {
    let file = Fields::read(folder.join(CONFIG), "ViT")?;
    let layout = Layout::of_file(&file)?;
    let inner = file.section("pretrained_cfg")?;
    let places: &[(&Fields, &str)] = match layout {
        Layout::Transformers { .. } => &[(&file, "id2label")],
        // Old files have `labels`, some of them further inside.
        Layout::Timm => &[
            (&file, "label_names"),
            (&file, "labels"),
            (&inner, "label_names"),
            (&inner, "labels"),
        ],
    };
    let is_there = |(file, key): &&(&Fields, &str)| match file.get(key) {
        Some(Value::Object(names)) => !names.is_empty(),
        found => found.is_some_and(|value| !value.is_null()),
    };
    let Some((place, key)) = places.iter().find(is_there) else { return Ok(Vec::new()) };
    let (names, classes) = (names(place, key)?, parse(&file, layout)?.classes);
    match names.len() == classes {
        true => Ok(names),
        false => Err(file.fail(format!(
            "`{key}` names {} classes of {classes}; take it away, or name them all",
            names.len()
        ))),
    }
}

/// The texts of a list, or of an object with the keys 0, 1, 2, ...
fn names(file: &Fields, key: &str) -> Result<Vec<String>, StoreError> {
    let found: Option<Vec<&Value>> = match file.get(key) {
        Some(Value::Array(list)) => Some(list.iter().collect()),
        Some(Value::Object(by_id)) => {
            (0..by_id.len()).map(|id| by_id.get(&id.to_string())).collect()
        }
        _ => None,
    };
    let names = found.and_then(|list| {
        list.into_iter().map(|name| name.as_str().map(str::to_string)).collect::<Option<Vec<_>>>()
    });
    names.ok_or_else(|| file.wrong(key, "a name for each class, by the numbers 0, 1, 2, ..."))
}

/// The content of `config.json` for a model, in the layout of transformers.
pub(super) fn to_json(
    folder: &Path,
    config: &VitConfig,
    classes: &[String],
) -> Result<Value, StoreError> {
    let fail = |reason| StoreError::Format { path: folder.join(CONFIG), reason };
    if !classes.is_empty() && classes.len() != config.classes {
        let (names, wanted) = (classes.len(), config.classes);
        return Err(fail(format!(
            "{names} names of classes for a model of {wanted}; give one for each, or none"
        )));
    }
    let plain = config.conditioning.is_plain();
    let layout = Layout::of(config);
    let model_type = MODEL_TYPES.iter().find(|(_, known)| *known == layout).map(|(name, _)| name);
    let architecture = match config.distilled {
        true => "DeiTForImageClassificationWithTeacher",
        false => "ViTForImageClassification",
    };
    let label = |id: usize| classes.get(id).cloned().unwrap_or_else(|| format!("LABEL_{id}"));
    let ids = || 0..config.classes;
    let by_id: Map<String, Value> = ids().map(|id| (id.to_string(), label(id).into())).collect();
    let by_label: Map<String, Value> = ids().map(|id| (label(id), id.into())).collect();
    let mut json = json!({
        "architectures": [if plain { architecture.into() } else { format!("Conditioned{architecture}") }],
        "model_type": model_type,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.channels,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.width * config.mlp_ratio,
        "hidden_act": "gelu",
        "qkv_bias": true,
        "layer_norm_eps": config.eps,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": config.table_std,
        "encoder_stride": config.patch_size,
        "id2label": by_id,
        "label2id": by_label,
        "torch_dtype": "float32",
    });
    if !plain {
        // What is written has been trained: it does not begin again.
        let conditioning = ConditioningConfig { ramp_steps: 0, ..config.conditioning };
        json["conditioning"] =
            serde_json::to_value(conditioning).map_err(candle_core::Error::wrap)?;
    }
    Ok(json)
}
