//! A GPT-2 in a folder of Hugging Face.
//!
//! Names may begin with `transformer.` or not. The causal masks that old files hold
//! (`h.N.attn.bias`, `h.N.attn.masked_bias`) are passed over.
//!
//! ```no_run
//! use std::path::Path;
//! use candle_core::{DType, Device};
//! use conditioned_models::gpt2::Gpt2;
//! use conditioned_models::hugging_face::gpt2;
//! use conditioned_nn::Store;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = Path::new("gpt2");
//! let config = gpt2::read_config(folder)?;
//! let store = Store::new(0, DType::F32, &Device::Cpu);
//! gpt2::read_weights(folder, &config, &store)?;
//! let model = Gpt2::new(&config, store.builder())?; // trains on
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use conditioned_nn::{Store, StoreError};
use serde_json::{Value, json};

use super::fields::Fields;
use super::{CONFIG, equal, weights, write_folder};
use crate::architecture::Architecture;
use crate::conditioning::{ConditioningConfig, Method};
use crate::gpt2::{Gpt2, Gpt2Config};

/// What the names of the base model begin with in a model with a head.
const PREFIX: &str = "transformer.";

/// The token table, the position table and the head.
const WTE: &str = "wte.weight";
const WPE: &str = "wpe.weight";
const HEAD: &str = "lm_head.weight";

/// What the names of tensors begin with that are of no other task.
const PARTS: [&str; 5] = ["wte.", "wpe.", "h.", "ln_f.", "lm_head."];

/// Puts the weights of a folder into `store`, where the tensors of a [`Gpt2`] of `config` are made
/// first if they are not there: build the model afterwards.
///
/// A folder without the state of a conditioning (`conditioner.running_*`, `spectral_conditioning`), such as a published one,
/// leaves that of the store as it is. Heads of other tasks are passed over: their names are returned.
///
/// # Errors
/// When a file is missing or damaged, a tensor is missing, unexpected or of another shape, holds NaN or
/// infinity, or a tied head differs from the token table. The store then holds what it held, new tensors
/// aside.
pub fn read_weights(
    folder: &Path,
    config: &Gpt2Config,
    store: &Store,
) -> Result<Vec<String>, StoreError> {
    Gpt2::new(config, store.builder())?;
    let (path, tensors) = weights::load(folder, PREFIX)?;
    let is_own =
        |name: &String| weights::is_state(name) || PARTS.iter().any(|part| name.starts_with(part));
    let (mut tensors, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
        tensors.into_iter().partition(|(name, _)| is_own(name));
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
    weights::check_finite(&path, &tensors)?;
    let kept = weights::kept_state(store, |name| tensors.contains_key(name))?;
    tensors.extend(kept);
    store.assign(&path, tensors)?;
    Ok(others.into_keys().collect())
}

/// Writes the model of `store` as it is: to be read here, with the state of its conditioning and without
/// its ramp.
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
    write_named(folder, config, end_of_text, tensors.collect())
}

/// Writes the model of `store` as a plain GPT-2 that computes the same: what is done to tokens is
/// folded into the tables, and the head, which multiplies with the raw token table, is untied from it;
/// what is done to weights is folded into them.
///
/// Without conditioning this is [`write()`].
///
/// # Errors
/// When a file cannot be written, or the conditioning cannot be folded: a method that is not causal, or
/// what is done to the output of attention.
pub fn export(
    folder: &Path,
    config: &Gpt2Config,
    store: &Store,
    end_of_text: Option<u32>,
) -> Result<(), StoreError> {
    if config.conditioning.is_plain() {
        return write(folder, config, store, end_of_text);
    }
    let model = Gpt2::new(config, store.frozen()?)?;
    let (tokens, positions) = model.folded_tables()?;
    let mut tensors = weights::plain_parameters(store);
    tensors.extend(model.folded_weights()?);
    // Tables that stay what they are keep the head tied.
    let tied = config.conditioning.method == Method::None && config.tie_word_embeddings;
    if !tied {
        tensors.insert(HEAD.into(), model.head().clone());
    }
    tensors.insert(WTE.into(), tokens);
    tensors.insert(WPE.into(), positions);
    let plain = Gpt2Config {
        tie_word_embeddings: tied,
        conditioning: ConditioningConfig::default(),
        allow_future_leak: false,
        ..config.clone()
    };
    write_named(folder, &plain, end_of_text, tensors)
}

/// Tensors under the names of a model with a head.
fn write_named(
    folder: &Path,
    config: &Gpt2Config,
    end_of_text: Option<u32>,
    tensors: BTreeMap<String, Tensor>,
) -> Result<(), StoreError> {
    let named = tensors.into_iter().map(|(name, tensor)| match name.as_str() {
        HEAD => (name, tensor),
        _ => (format!("{PREFIX}{name}"), tensor),
    });
    write_folder(folder, &to_json(config, end_of_text)?, named)
}

/// The model type of transformers, and ours, which it does not know, for a conditioned model.
const PLAIN: &str = "gpt2";
const CONDITIONED: &str = "conditioned-gpt2";

/// Reads `config.json` of a folder.
///
/// Dropout is that of the residual branches; another one of the embedding (`embd_pdrop`) is named in a
/// warning. Dropout inside attention (`attn_pdrop`) is passed over: these models have none. Evaluation is
/// the same. A file without `model_type` is read by its other fields.
///
/// # Errors
/// When the file cannot be read, or asks for a model that [`Gpt2Config`] cannot be: names key, value
/// and what is wanted.
pub fn read_config(folder: &Path) -> Result<Gpt2Config, StoreError> {
    let file = Fields::read(folder.join(CONFIG), "GPT-2")?;
    file.model_type(&[PLAIN, CONDITIONED], "GPT2")?;
    let conditioned = file.get("model_type") == Some(&json!(CONDITIONED));
    // The common names of transformers do as well.
    let width = file.size_of(&["n_embd", "hidden_size"])?;
    // These may be absent, which means the first of the values.
    // One function by five names.
    let gelu = ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh"];
    file.absent_or("activation_function", &gelu.map(Value::from))?;
    file.absent_or("layer_norm_epsilon", &[json!(1e-5)])?;
    file.absent_or("n_inner", &[Value::Null, json!(width.saturating_mul(4))])?;
    file.absent_or("scale_attn_weights", &[json!(true)])?;
    file.absent_or("scale_attn_by_inverse_layer_idx", &[json!(false)])?;
    file.absent_or("add_cross_attention", &[json!(false)])?;
    file.absent_or("tie_word_embeddings", &[json!(true), json!(false)])?;
    let dropout = file.real("resid_pdrop", 0.1)?;
    file.warn_unequal("embd_pdrop", "resid_pdrop", dropout)?;
    let std = file.real("initializer_range", 0.02)?;
    let config = Gpt2Config {
        vocabulary: file.size("vocab_size")?,
        context: file.size_of(&["n_positions", "n_ctx", "max_position_embeddings"])?,
        width,
        depth: file.size_of(&["n_layer", "num_hidden_layers"])?,
        heads: file.size_of(&["n_head", "num_attention_heads"])?,
        dropout,
        token_std: std,
        position_std: std,
        tie_word_embeddings: file.get("tie_word_embeddings") != Some(&json!(false)),
        conditioning: match conditioned {
            true => file.conditioning()?,
            false => ConditioningConfig::default(),
        },
        allow_future_leak: conditioned && file.get("allow_future_leak") == Some(&json!(true)),
    };
    config.validate().map_err(|e| file.fail(e.to_string()))?;
    let Gpt2Config { vocabulary, context, width, depth, .. } = config;
    let [vocabulary, context, width, depth] =
        [vocabulary, context, width, depth].map(|size| size as u128);
    file.check_weights(width * (vocabulary + context + 12 * depth * width))?;
    Ok(config)
}

/// The content of `config.json` for a model.
///
/// # Errors
/// When the configuration of the conditioning cannot be written as JSON.
fn to_json(config: &Gpt2Config, end_of_text: Option<u32>) -> Result<Value, StoreError> {
    let plain = config.conditioning.is_plain();
    let (kind, architecture) = match plain {
        true => (PLAIN, "GPT2LMHeadModel"),
        false => (CONDITIONED, "ConditionedGPT2"),
    };
    let mut json = json!({
        "architectures": [architecture],
        "model_type": kind,
        "vocab_size": config.vocabulary,
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": config.depth,
        "n_head": config.heads,
        "n_inner": null,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": true,
        "scale_attn_by_inverse_layer_idx": false,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "torch_dtype": "float32",
    });
    if !plain {
        // What is written has been trained: it does not begin again.
        let conditioning = ConditioningConfig { ramp_steps: 0, ..config.conditioning };
        json["conditioning"] =
            serde_json::to_value(conditioning).map_err(candle_core::Error::wrap)?;
        json["allow_future_leak"] = json!(config.allow_future_leak);
    }
    Ok(json)
}
