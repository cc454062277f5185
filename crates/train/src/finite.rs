//! Numbers in JSON: what is not finite becomes null, and null is read as NaN.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::task::Metrics;

/// For one number: serde_json writes null by itself, but does not read it back.
pub(crate) mod number {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
    }
}

/// For a map of numbers.
pub(crate) mod metrics {
    use std::collections::BTreeMap;

    use super::{Deserialize, Deserializer, Metrics, Serializer};

    pub(crate) fn serialize<S: Serializer>(metrics: &Metrics, to: S) -> Result<S::Ok, S::Error> {
        let finite = metrics.iter().map(|(name, v)| (name, v.is_finite().then_some(*v)));
        to.collect_map(finite)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Metrics, D::Error> {
        let values = BTreeMap::<String, Option<f64>>::deserialize(from)?;
        Ok(values.into_iter().map(|(name, v)| (name, v.unwrap_or(f64::NAN))).collect())
    }
}

/// For a map of lists of numbers.
pub(crate) mod spectra {
    use std::collections::BTreeMap;

    use super::{Deserialize, Deserializer, Serializer};

    type Spectra = BTreeMap<String, Vec<f32>>;

    pub(crate) fn serialize<S: Serializer>(spectra: &Spectra, to: S) -> Result<S::Ok, S::Error> {
        let finite = |values: &Vec<f32>| -> Vec<Option<f32>> {
            values.iter().map(|v| v.is_finite().then_some(*v)).collect()
        };
        to.collect_map(spectra.iter().map(|(name, values)| (name, finite(values))))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Spectra, D::Error> {
        let spectra = BTreeMap::<String, Vec<Option<f32>>>::deserialize(from)?;
        let values = |list: Vec<Option<f32>>| list.into_iter().map(|v| v.unwrap_or(f32::NAN));
        Ok(spectra.into_iter().map(|(name, list)| (name, values(list).collect())).collect())
    }
}
