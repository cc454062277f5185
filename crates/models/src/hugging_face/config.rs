//! `config.json`: what a GPT-2 of transformers is, and whether ours can be it.

use std::path::{Path, PathBuf};

use conditioned_nn::StoreError;
use serde_json::{Map, Value, json};

use crate::conditioning::{ConditioningConfig, Method};
use crate::gpt2::Gpt2Config;

/// The file.
pub(super) const FILE: &str = "config.json";

/// The model type of transformers, and ours, which it does not know, for a conditioned model.
const PLAIN: &str = "gpt2";
const CONDITIONED: &str = "conditioned-gpt2";

/// Reads `config.json` of a folder.
///
/// Dropout is that of the residual branches, which that of the embedding must equal. Dropout inside
/// attention (`attn_pdrop`) is passed over: these models have none, and evaluation is the same.
///
/// # Errors
/// When the file cannot be read, or asks for a model that [`Gpt2Config`] cannot be: names key, value
/// and what is wanted.
pub fn read_config(folder: &Path) -> Result<Gpt2Config, StoreError> {
    let file = Fields::read(folder.join(FILE))?;
    file.one_of("model_type", &[json!(PLAIN), json!(CONDITIONED)])?;
    let conditioned = file.get("model_type") == Some(&json!(CONDITIONED));
    let width = file.size("n_embd")?;
    // These may be absent, which means the first of the values.
    file.absent_or("activation_function", &[json!("gelu_new"), json!("gelu_pytorch_tanh")])?;
    file.absent_or("layer_norm_epsilon", &[json!(1e-5)])?;
    file.absent_or("n_inner", &[Value::Null, json!(4 * width)])?;
    file.absent_or("scale_attn_weights", &[json!(true)])?;
    file.absent_or("scale_attn_by_inverse_layer_idx", &[json!(false)])?;
    file.absent_or("add_cross_attention", &[json!(false)])?;
    file.absent_or("tie_word_embeddings", &[json!(true), json!(false)])?;
    let dropout = file.real("resid_pdrop", 0.1)?;
    if file.real("embd_pdrop", 0.1)? != dropout {
        return Err(file.wrong("embd_pdrop", &format!("that of `resid_pdrop`, {dropout}")));
    }
    let std = file.real("initializer_range", 0.02)?;
    let config = Gpt2Config {
        vocabulary: file.size("vocab_size")?,
        context: match file.get("n_positions") {
            None => file.size("n_ctx")?,
            Some(_) => file.size("n_positions")?,
        },
        width,
        depth: file.size("n_layer")?,
        heads: file.size("n_head")?,
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
    Ok(config)
}

/// The content of `config.json` for a model.
///
/// # Errors
/// When the configuration of the conditioning cannot be written as JSON.
pub(super) fn to_json(config: &Gpt2Config, end_of_text: Option<u32>) -> Result<Value, StoreError> {
    let plain = config.conditioning.method == Method::None;
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
        json["conditioning"] =
            serde_json::to_value(config.conditioning).map_err(candle_core::Error::wrap)?;
        json["allow_future_leak"] = json!(config.allow_future_leak);
    }
    Ok(json)
}

/// The fields of a `config.json`.
struct Fields {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Fields {
    fn read(path: PathBuf) -> Result<Self, StoreError> {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        match serde_json::from_slice(&bytes) {
            Ok(fields) => Ok(Self { path, fields }),
            Err(e) => {
                let reason = format!("not an object of settings ({e}); fetch it again");
                Err(StoreError::Format { path, reason })
            }
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key)
    }

    fn fail(&self, reason: String) -> StoreError {
        StoreError::Format { path: self.path.clone(), reason }
    }

    /// The error for a key whose value cannot be used.
    fn wrong(&self, key: &str, wanted: &str) -> StoreError {
        match self.get(key) {
            Some(found) => self.fail(format!("`{key}` is {found}; this GPT-2 wants {wanted}")),
            None => self.fail(format!("`{key}` is missing; this GPT-2 wants {wanted}")),
        }
    }

    fn one_of(&self, key: &str, wanted: &[Value]) -> Result<(), StoreError> {
        // 1 and 1.0 are the same setting.
        let equal = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        };
        let fits = |found: &Value| wanted.iter().any(|wanted| equal(found, wanted));
        if self.get(key).is_some_and(fits) {
            return Ok(());
        }
        let wanted: Vec<String> = wanted.iter().map(Value::to_string).collect();
        Err(self.wrong(key, &wanted.join(" or ")))
    }

    fn absent_or(&self, key: &str, wanted: &[Value]) -> Result<(), StoreError> {
        if self.get(key).is_some() { self.one_of(key, wanted) } else { Ok(()) }
    }

    fn size(&self, key: &str) -> Result<usize, StoreError> {
        let size = self.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        size.ok_or_else(|| self.wrong(key, "a number of 0 or more"))
    }

    fn real(&self, key: &str, absent: f64) -> Result<f64, StoreError> {
        match self.get(key) {
            None => Ok(absent),
            Some(value) => value.as_f64().ok_or_else(|| self.wrong(key, "a number")),
        }
    }

    fn conditioning(&self) -> Result<ConditioningConfig, StoreError> {
        let found = self.get("conditioning").ok_or_else(|| self.wrong("conditioning", "one"))?;
        serde_json::from_value(found.clone())
            .map_err(|e| self.fail(format!("`conditioning` is {found}: {e}")))
    }
}
