//! A BERT in a folder of Hugging Face: the encoder with whatever head its model has.
//!
//! Names may begin with `bert.` or not, and norms may have the `gamma` and `beta` of old files.
//!
//! ```no_run
//! use std::path::Path;
//! use candle_core::{DType, Device};
//! use conditioned_models::bert_heads::BertClassifier;
//! use conditioned_models::hugging_face::bert;
//! use conditioned_nn::Store;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = Path::new("all-MiniLM-L6-v2");
//! let config = bert::read_config(folder)?;
//! let store = Store::new(0, DType::F32, &Device::Cpu);
//! let model = BertClassifier::new(&config, 2, store.builder())?;
//! let fresh = bert::read_weights(folder, &store)?.fresh; // the classifier
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use conditioned_nn::{Store, StoreError};
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::{CONFIG, Loaded, equal, weights, write_folder};
use crate::architecture::Architecture;
use crate::bert::{Bert, BertConfig, EPS};
use crate::conditioning::{ConditioningConfig, Method};

/// What the names of the encoder begin with in a model with a head.
const PREFIX: &str = "bert.";

/// The model type of transformers, and ours, which it does not know, for a conditioned model.
const PLAIN: &str = "bert";
const CONDITIONED: &str = "conditioned-bert";

/// The tables that a conditioning folds into.
const TABLES: [&str; 3] = [
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
];

/// The decoder of a masked-language head where it is not the word table, and its bias, which files
/// have under two names.
const DECODER: &str = "cls.predictions.decoder.weight";
const DECODER_BIAS: &str = "cls.predictions.decoder.bias";

/// What the model is for: the heads of transformers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// The encoder alone.
    None,
    /// A classifier with these labels.
    Classes(Vec<String>),
    /// A classifier with one output, which is a score.
    Score,
    /// The head that restores masked words.
    MaskedLm,
}

/// Reads `config.json` of a folder.
///
/// Dropout is that of hidden states; another one of the classifier (`classifier_dropout`) is named in a
/// warning. Dropout inside attention (`attention_probs_dropout_prob`) is passed over: these models have
/// none. Evaluation is the same. A file without `model_type` is read by its other fields.
///
/// # Errors
/// When the file cannot be read, or asks for a model that [`BertConfig`] cannot be: names key, value
/// and what is wanted.
pub fn read_config(folder: &Path) -> Result<BertConfig, StoreError> {
    let file = Fields::read(folder.join(CONFIG), "BERT")?;
    file.model_type(&[PLAIN, CONDITIONED], "Bert")?;
    // These may be absent, which means the value.
    file.absent_or("hidden_act", &[json!("gelu"), json!("gelu_python")])?;
    file.absent_or("layer_norm_eps", &[json!(EPS)])?;
    file.absent_or("position_embedding_type", &[json!("absolute")])?;
    file.absent_or("is_decoder", &[json!(false)])?;
    let dropout = file.real("hidden_dropout_prob", 0.1)?;
    file.warn_unequal("classifier_dropout", "hidden_dropout_prob", dropout)?;
    file.absent_or("add_cross_attention", &[json!(false)])?;
    let config = BertConfig {
        vocabulary: file.size("vocab_size")?,
        context: file.size("max_position_embeddings")?,
        types: file.size("type_vocab_size")?,
        width: file.size("hidden_size")?,
        depth: file.size("num_hidden_layers")?,
        heads: file.size("num_attention_heads")?,
        hidden: file.size("intermediate_size")?,
        dropout,
        table_std: file.real("initializer_range", 0.02)?,
        linear_std: file.real("initializer_range", 0.02)?,
        conditioning: match file.get("model_type") == Some(&json!(CONDITIONED)) {
            true => file.conditioning()?,
            false => ConditioningConfig::default(),
        },
    };
    config.validate().map_err(|e| file.fail(e.to_string()))?;
    let BertConfig { vocabulary, context, types, width, depth, hidden, .. } = config;
    let [vocabulary, context, types, width, depth, hidden] =
        [vocabulary, context, types, width, depth, hidden].map(|size| size as u128);
    let rows = vocabulary + context + types;
    file.check_weights(width * (rows + depth * (4 * width + 2 * hidden)))?;
    Ok(config)
}

/// Puts the weights of a folder into `store`, over which the model has been built.
///
/// The encoder must be complete. Pooler and head may be missing in the file, as for a new task, or heads of
/// other tasks be there; what is of both must have the model's shapes. A folder without the state of a
/// conditioning, such as a published one, leaves that of the store as it is.
///
/// # Errors
/// When a file is missing or damaged, a tensor of the encoder is missing or unexpected, a tensor has
/// another shape, or the decoder of a masked-language head is not the word table. The store then holds
/// what it held.
pub fn read_weights(folder: &Path, store: &Store) -> Result<Loaded, StoreError> {
    read(folder, store, true)
}

/// [`read_weights`] for a new task: a classifier in the folder is of another one and is passed over.
///
/// # Errors
/// As [`read_weights`].
pub fn read_encoder(folder: &Path, store: &Store) -> Result<Loaded, StoreError> {
    read(folder, store, false)
}

fn read(folder: &Path, store: &Store, classifier: bool) -> Result<Loaded, StoreError> {
    let (path, all) = weights::load(folder, PREFIX)?;
    let mut found: BTreeMap<String, Tensor> = BTreeMap::new();
    for (name, tensor) in all {
        let name = modern(&name);
        if found.contains_key(&name) {
            let reason = format!("`{name}` is there under its old name too; save the folder again");
            return Err(StoreError::Format { path, reason });
        }
        found.insert(name, tensor);
    }
    found.remove("embeddings.position_ids");
    let decoder = found.remove(DECODER);
    let bias = found.remove(DECODER_BIAS);
    if let Some(bias) = bias {
        found.entry("cls.predictions.bias".to_string()).or_insert(bias);
    }
    let of_store: BTreeMap<String, String> =
        store.tensors().into_iter().map(|(name, _)| (base(&name).to_string(), name)).collect();
    if of_store.contains_key("cls.predictions.bias")
        && let (Some(decoder), Some(table)) = (&decoder, found.get(TABLES[0]))
        && !equal(decoder, table)
    {
        let reason = format!(
            "`{DECODER}` differs from `{}`: here a masked-language head multiplies with the word \
             table; take another checkpoint",
            TABLES[0]
        );
        return Err(StoreError::Format { path, reason });
    }
    let (mut loaded, mut tensors) =
        (Loaded { fresh: Vec::new(), unused: Vec::new() }, BTreeMap::new());
    for (name, tensor) in found {
        match of_store.get(&name) {
            _ if !classifier && name.starts_with("classifier.") => loaded.unused.push(name),
            Some(stored) => drop(tensors.insert(stored.clone(), tensor)),
            None if !is_encoder(&name) => loaded.unused.push(name),
            // To be named as unexpected.
            None => drop(tensors.insert(name, tensor)),
        }
    }
    weights::check_finite(&path, &tensors)?;
    let kept = weights::kept_state(store, |name| tensors.contains_key(name))?;
    tensors.extend(kept);
    for (name, var) in store.tensors() {
        let head = !is_encoder(base(&name)) && !weights::is_state(&name);
        if head && !tensors.contains_key(&name) {
            tensors.insert(name.clone(), var.as_detached_tensor().copy()?);
            loaded.fresh.push(name);
        }
    }
    store.assign(&path, tensors)?;
    Ok(loaded)
}

/// Writes the model of `store` as it is: to be read here, with the state of its conditioning and without
/// its ramp. The deviation of the initialisation is not kept.
///
/// Without conditioning transformers reads it too. With one, transformers would compute something
/// else; so the model type then is one that it does not know, and [`export`] writes a model for it
/// where that is possible.
///
/// # Errors
/// When a file cannot be written.
pub fn write(
    folder: &Path,
    config: &BertConfig,
    head: &Head,
    store: &Store,
) -> Result<(), StoreError> {
    let tensors = store.tensors().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    write_folder(folder, &to_json(config, head)?, tensors)
}

/// Writes the model of `store` as a plain BERT that computes the same: what is done to tokens is folded
/// into the three tables of the embedding, and the decoder of a masked-language head, which multiplies
/// with the raw word table, is untied from it; what is done to weights is folded into them.
///
/// Without conditioning this is [`write()`].
///
/// # Errors
/// When a file cannot be written, or the conditioning cannot be folded.
pub fn export(
    folder: &Path,
    config: &BertConfig,
    head: &Head,
    store: &Store,
) -> Result<(), StoreError> {
    if config.conditioning.is_plain() {
        return write(folder, config, head, store);
    }
    let has_prefix = store.get(&format!("{PREFIX}{}", TABLES[0])).is_some();
    let prefix = if has_prefix { PREFIX } else { "" };
    if !has_prefix && *head != Head::None {
        let reason = format!(
            "the model has no head ({PREFIX}{} is missing), and one is to be written",
            TABLES[0]
        );
        return Err(StoreError::Format { path: folder.to_path_buf(), reason });
    }
    let vb = store.frozen()?;
    let bert = Bert::new(config, if prefix.is_empty() { vb } else { vb.pp("bert") })?;
    let mut tensors = weights::plain_parameters(store);
    for (name, table) in TABLES.into_iter().zip(bert.folded_tables()?) {
        tensors.insert(format!("{prefix}{name}"), table);
    }
    tensors.extend(bert.folded_weights()?);
    let plain = BertConfig { conditioning: ConditioningConfig::default(), ..config.clone() };
    let mut json = to_json(&plain, head)?;
    if config.conditioning.method != Method::None
        && let Some(bias) = tensors.get("cls.predictions.bias")
    {
        tensors.insert(DECODER_BIAS.into(), bias.copy()?);
        tensors.insert(DECODER.into(), bert.word_table().copy()?);
        json["tie_word_embeddings"] = json!(false);
    }
    write_folder(folder, &json, tensors)
}

/// The name without the prefix of a model with a head.
fn base(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// Whether a tensor belongs to the embedding or a layer, and not to the pooler or a head of any task.
fn is_encoder(name: &str) -> bool {
    name.starts_with("embeddings.") || name.starts_with("encoder.")
}

/// The name that files of today have.
fn modern(name: &str) -> String {
    let renamed = |old, new| name.strip_suffix(old).map(|start| format!("{start}{new}"));
    renamed("LayerNorm.gamma", "LayerNorm.weight")
        .or_else(|| renamed("LayerNorm.beta", "LayerNorm.bias"))
        .unwrap_or_else(|| name.to_string())
}

/// The content of `config.json` for a model.
fn to_json(config: &BertConfig, head: &Head) -> Result<Value, StoreError> {
    let plain = config.conditioning.is_plain();
    let architecture = match head {
        Head::None => "BertModel",
        Head::Classes(_) | Head::Score => "BertForSequenceClassification",
        Head::MaskedLm => "BertForMaskedLM",
    };
    let mut json = json!({
        "architectures": [if plain { architecture.into() } else { format!("Conditioned{architecture}") }],
        "model_type": if plain { PLAIN } else { CONDITIONED },
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context,
        "type_vocab_size": config.types,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "hidden_act": "gelu",
        "layer_norm_eps": EPS,
        "position_embedding_type": "absolute",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "torch_dtype": "float32",
    });
    let (labels, problem): (&[String], _) = match head {
        Head::Classes(labels) => (labels, "single_label_classification"),
        Head::Score => (&["SCORE".to_string()], "regression"),
        Head::None | Head::MaskedLm => (&[], ""),
    };
    if !labels.is_empty() {
        let labels = || labels.iter().enumerate();
        let by_id: Map<String, Value> =
            labels().map(|(id, label)| (id.to_string(), json!(label))).collect();
        let by_label: Map<String, Value> =
            labels().map(|(id, label)| (label.clone(), json!(id))).collect();
        json["id2label"] = Value::Object(by_id);
        json["label2id"] = Value::Object(by_label);
        json["problem_type"] = json!(problem);
    }
    if !plain {
        // What is written has been trained: it does not begin again.
        let conditioning = ConditioningConfig { ramp_steps: 0, ..config.conditioning };
        json["conditioning"] =
            serde_json::to_value(conditioning).map_err(candle_core::Error::wrap)?;
    }
    Ok(json)
}
