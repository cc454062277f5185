//! `--set key=value`: overrides of a closed configuration.

use anyhow::{Result, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Applies `key=value` pairs to the fields of a configuration.
///
/// A value is read as JSON where it can be (numbers, `null`, `true`), and as text otherwise. Types
/// are checked by the configuration itself.
///
/// # Errors
/// When a pair has no `=`, a key is unknown (all known ones are listed), or a value does not fit.
pub fn apply<T: Serialize + DeserializeOwned>(config: T, pairs: &[String]) -> Result<T> {
    let mut json = serde_json::to_value(config)?;
    for pair in pairs {
        let Some((key, text)) = pair.split_once('=') else {
            bail!("--set {pair}: expected key=value");
        };
        let fields = json.as_object_mut().ok_or_else(|| anyhow!("not a configuration"))?;
        let Some(field) = fields.get_mut(key) else {
            let known: Vec<&str> = fields.keys().map(String::as_str).collect();
            bail!("--set {pair}: unknown key `{key}`; known: {}", known.join(", "));
        };
        *field = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_string()));
        // Checked one by one, so that the error names the pair at fault.
        if let Err(error) = serde_json::from_value::<T>(json.clone()) {
            bail!("--set {pair}: {error}");
        }
    }
    Ok(serde_json::from_value(json)?)
}
