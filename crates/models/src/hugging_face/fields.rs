//! The fields of a `config.json`.

use std::path::PathBuf;

use conditioned_nn::StoreError;
use serde_json::{Map, Value};

use super::weights;
use crate::conditioning::ConditioningConfig;

/// No size of a model comes near.
const MOST: usize = 1 << 30;

/// The fields of a `config.json`.
pub(super) struct Fields {
    path: PathBuf,
    /// The model that wants them, for errors.
    model: &'static str,
    /// Where in the file they are, for errors: nothing, or the key of an object and a dot.
    section: String,
    fields: Map<String, Value>,
}

impl Fields {
    pub(super) fn read(path: PathBuf, model: &'static str) -> Result<Self, StoreError> {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(reason) => return Err(StoreError::Io { path, reason }),
        };
        match serde_json::from_slice(&bytes) {
            Ok(fields) => Ok(Self { path, model, section: String::new(), fields }),
            Err(e) => {
                let reason = format!("not an object of settings ({e}); fetch it again");
                Err(StoreError::Format { path, reason })
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key)
    }

    /// The fields of the object under a key; none where it is absent or null.
    pub(super) fn section(&self, key: &str) -> Result<Self, StoreError> {
        let fields = match self.get(key) {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(fields)) => fields.clone(),
            Some(_) => return Err(self.wrong(key, "an object of settings")),
        };
        let section = format!("{}{key}.", self.section);
        Ok(Self { path: self.path.clone(), model: self.model, section, fields })
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    pub(super) fn fail(&self, reason: String) -> StoreError {
        StoreError::Format { path: self.path.clone(), reason }
    }

    /// The error for a key whose value cannot be used.
    pub(super) fn wrong(&self, key: &str, wanted: &str) -> StoreError {
        let Self { model, section, .. } = self;
        match self.get(key) {
            Some(found) => {
                self.fail(format!("`{section}{key}` is {found}; this {model} wants {wanted}"))
            }
            None => self.fail(format!("`{section}{key}` is missing; this {model} wants {wanted}")),
        }
    }

    pub(super) fn one_of(&self, key: &str, wanted: &[Value]) -> Result<(), StoreError> {
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
        let wanted = wanted.join(" or ");
        match self.get(key) {
            Some(found) => Err(self.fail(format!(
                "`{}{key}` is {found}, which is not supported: a {} computes here with {wanted} alone, and would be \
                 another model with that; take another checkpoint",
                self.section, self.model
            ))),
            None => Err(self.wrong(key, &wanted)),
        }
    }

    /// Checks `model_type`. Old files have none: then the first of `architectures`, if there is one, must
    /// begin with `start`.
    pub(super) fn model_type(&self, wanted: &[&str], start: &str) -> Result<(), StoreError> {
        if self.get("model_type").is_some_and(|found| !found.is_null()) {
            let wanted: Vec<Value> = wanted.iter().map(|name| Value::from(*name)).collect();
            return self.one_of("model_type", &wanted);
        }
        let architecture = self.get("architectures").and_then(|list| list.get(0)?.as_str());
        match architecture {
            Some(other) if !other.starts_with(start) => Err(self.fail(format!(
                "no `model_type`, and the architecture is {other}; this is a {}: if that is what it is, add \
                 \"model_type\": {:?}",
                self.model, wanted[0]
            ))),
            _ => Ok(()),
        }
    }

    /// Warns where two settings differ that are one here.
    pub(super) fn warn_unequal(
        &self,
        key: &str,
        other: &str,
        value: f64,
    ) -> Result<(), StoreError> {
        let found = self.real(key, value)?;
        if found != value {
            tracing::warn!(
                "{}: `{key}` is {found} and `{other}` {value}; this {} has one dropout, and where it trains \
                 takes {value} unless told otherwise",
                self.path.display(),
                self.model
            );
        }
        Ok(())
    }

    pub(super) fn absent_or(&self, key: &str, wanted: &[Value]) -> Result<(), StoreError> {
        if self.get(key).is_some() { self.one_of(key, wanted) } else { Ok(()) }
    }

    pub(super) fn size(&self, key: &str) -> Result<usize, StoreError> {
        let size = self.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        // A larger one is damage: products of several must not overflow.
        size.filter(|&n| n < MOST).ok_or_else(|| self.wrong(key, "a whole number from 0 to 2^30"))
    }

    /// The size under a key, or `absent` where there is none.
    pub(super) fn size_or(&self, key: &str, absent: usize) -> Result<usize, StoreError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(absent),
            Some(_) => self.size(key),
        }
    }

    /// The side of a square: a number, or the same number twice.
    pub(super) fn side(&self, key: &str) -> Result<usize, StoreError> {
        match self.get(key).and_then(Value::as_array).map(Vec::as_slice) {
            None => self.size(key),
            Some([a, b]) if a == b => {
                let side = a.as_u64().and_then(|n| usize::try_from(n).ok());
                side.filter(|&n| n < MOST).ok_or_else(|| self.wrong(key, "a side in pixels"))
            }
            Some(_) => Err(self.wrong(key, "the side of a square")),
        }
    }

    /// As [`Fields::side`], or `absent` where there is none.
    pub(super) fn side_or(&self, key: &str, absent: usize) -> Result<usize, StoreError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(absent),
            Some(_) => self.side(key),
        }
    }

    /// The size under the first of several names that is there.
    pub(super) fn size_of(&self, keys: &[&str]) -> Result<usize, StoreError> {
        let found = keys.iter().find(|key| self.get(key).is_some_and(|size| !size.is_null()));
        self.size(found.or(keys.first()).unwrap_or(&""))
    }

    /// Checks that the weights beside the file can hold so many numbers, a byte each at least.
    pub(super) fn check_weights(&self, numbers: u128) -> Result<(), StoreError> {
        let held = weights::bytes(self.path.parent().unwrap_or(&self.path));
        match held {
            // What is smaller holds no weights, and says so when it is read.
            Some(held) if held > 1024 && numbers > u128::from(held) => Err(self.fail(format!(
                "its sizes make {numbers} parameters, and the weights beside it are {held} bytes: they are not \
                 whole, or a size is damaged; fetch both again"
            ))),
            _ => Ok(()),
        }
    }

    /// The number under a key, or `absent` where there is none.
    pub(super) fn real(&self, key: &str, absent: f64) -> Result<f64, StoreError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(absent),
            Some(value) => value.as_f64().ok_or_else(|| self.wrong(key, "a number")),
        }
    }

    pub(super) fn conditioning(&self) -> Result<ConditioningConfig, StoreError> {
        let found = self.get("conditioning").ok_or_else(|| self.wrong("conditioning", "one"))?;
        serde_json::from_value(found.clone())
            .map_err(|e| self.fail(format!("`conditioning` is {found}: {e}")))
    }
}
