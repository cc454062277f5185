//! The inside of a model as records name it: spectra of tokens, queries, keys, attention and its output.
//!
//! | place | matrices |
//! | --- | --- |
//! | `x`, `y` | tokens (N, C) where they are conditioned, before and after; the same without a method |
//! | `layerL/tokens` | tokens (N, C) of the residual stream that enter layer L, from 1 |
//! | `layerL/input` | what queries, keys and values are made of: tokens behind the norm, where there is one |
//! | `layerL/queries`, `layerL/keys` | (N, D) of every head, in windows of every window |
//! | `layerL/attention` | what values are summed with, (N, N) or (D, D) of every head |
//! | `layerL/output` | the output of all heads, (N, C) |
//!
//! Each has the measures `kappa`, `effective_kappa`, `effective_rank`, `spectral_norm` and `entropy` of
//! [`Spectrum`]: `PLACE/MEASURE` is the median over all matrices of the place, `PLACE/MEASURE_q1` and `_q3` are its
//! quartiles. The spectrum of a place is the median of each singular value, over the longest sequences.
//!
//! Proposition 4.2 is about a head P X W_V with P its attention matrix: `layerL/bound_left` is kappa(P X W_V),
//! `layerL/bound_right` is kappa(P) kappa(X) kappa(W_V), X the input of the layer, and `layerL/violations` the share
//! of heads whose left side is the larger one. Only layers that sum over all tokens of a sequence have them.
//!
//! All are computed in f64, but from numbers in f32: kappa above [`RESOLVED`] says no more than that.

use std::collections::BTreeMap;

use candle_conditioning::bounds::Bound;
use candle_conditioning::{Spectrum, spectra};
use candle_core::{DType, Result, Tensor};
use conditioned_nn::{Probed, Seen};
use conditioned_report::statistics::{median, quantile};
use conditioned_train::{Findings, TaskError};

/// Sequences that a probe looks at.
pub const SEQUENCES: usize = 8;

/// Matrices of a place that are measured for each sequence, spread evenly: of the heads of many windows not all are.
const MATRICES: usize = 16;

/// The largest condition number that numbers in f32 resolve.
pub const RESOLVED: f64 = 1e7;

/// The largest condition number that a decomposition in f64 resolves. Proposition 4.2 holds of a matrix as it stands,
/// whatever its numbers were rounded from.
const RESOLVED_IN_F64: f64 = 1e14;

/// A number of a spectrum.
pub type Measure = fn(&Spectrum) -> f64;

/// What is measured of a spectrum, by name.
pub const MEASURES: [(&str, Measure); 5] = [
    (KAPPA, Spectrum::condition_number),
    ("effective_kappa", Spectrum::effective_condition_number),
    ("effective_rank", Spectrum::effective_rank),
    ("spectral_norm", Spectrum::spectral_norm),
    ("entropy", Spectrum::entropy),
];

/// The condition number.
pub const KAPPA: &str = "kappa";

/// What is measured of every layer, as places behind `layerL/`.
pub const PLACES: [&str; 6] = ["tokens", "input", "queries", "keys", "attention", "output"];

/// A condition number of numbers in f32, as people read it.
pub fn shown(kappa: f64) -> String {
    match kappa {
        kappa if kappa.is_nan() || kappa >= RESOLVED => "≥ 1e7".to_string(),
        kappa if kappa >= 1e4 => format!("{kappa:.1e}"),
        kappa if kappa >= 100.0 => format!("{kappa:.0}"),
        kappa => format!("{kappa:.1}"),
    }
}

/// The spectra of all places, and both sides of Proposition 4.2 of every layer that has them.
#[derive(Debug, Default)]
pub struct Inside {
    /// By place.
    pub spectra: BTreeMap<String, Vec<Spectrum>>,
    /// By layer, from 1; a bound a head and sequence.
    pub bounds: BTreeMap<usize, Vec<Bound>>,
    /// kappa(W_V) of every head, by layer.
    weights: BTreeMap<usize, Vec<f64>>,
}

impl Inside {
    /// Adds what was seen of one sequence, which must have no padding.
    ///
    /// # Errors
    /// When something is not finite.
    pub fn add(&mut self, seen: &Seen) -> Result<()> {
        if let Some([before, after]) = &seen.conditioning {
            self.add_place("x".to_string(), before)?;
            self.add_place("y".to_string(), after)?;
        }
        for (layer, probed) in seen.layers.iter().enumerate() {
            let (layer, heads) = (layer + 1, &probed.heads);
            let matrices = [
                &probed.tokens,
                &probed.input,
                &heads.queries,
                &heads.keys,
                &heads.attention,
                &probed.output,
            ];
            for (place, tensor) in PLACES.iter().zip(matrices) {
                // Tokens on a grid are one sequence.
                let grid = tensor.rank() == 4 && !["queries", "keys", "attention"].contains(place);
                let tensor = if grid { tensor.flatten(1, 2)? } else { tensor.clone() };
                self.add_place(format!("layer{layer}/{place}"), &tensor)?;
            }
            if let Some(w_v) = &probed.value_weight {
                self.add_bounds(layer, probed, w_v)?;
            }
        }
        Ok(())
    }

    /// Adds matrices (.., rows, columns).
    fn add_place(&mut self, place: String, tensor: &Tensor) -> Result<()> {
        let dims = tensor.dims();
        let [.., rows, columns] = *dims else { candle_core::bail!("{place}: no matrix {dims:?}") };
        let matrices = measured(&tensor.reshape(((), rows, columns))?)?;
        self.spectra.entry(place).or_default().extend(spectra(&matrices)?);
        Ok(())
    }

    /// Adds both sides of Proposition 4.2, a pair for each head that is measured.
    fn add_bounds(&mut self, layer: usize, probed: &Probed, w_v: &Tensor) -> Result<()> {
        let attention = probed.heads.attention.squeeze(0)?; // (H, N, N)
        let (heads, n, _) = attention.dims3()?;
        let by_head = |x: &Tensor| {
            let (rows, width) = x.dims2()?;
            x.reshape((rows, heads, width / heads))?.transpose(0, 1)?.contiguous()
        };
        let input = probed.input.reshape((n, ()))?.to_dtype(DType::F64)?;
        let values = by_head(&input.matmul(&w_v.to_dtype(DType::F64)?)?)?; // (H, N, D)
        let outputs = measured(&attention)?.to_dtype(DType::F64)?.matmul(&measured(&values)?)?;
        let left = kappas(&spectra(&outputs)?);
        let weights = match self.weights.get(&layer) {
            Some(known) => known,
            None => {
                let found = kappas(&spectra(&measured(&by_head(w_v)?)?)?);
                self.weights.entry(layer).or_insert(found)
            }
        };
        // The spectra of this sequence are the last ones of their place.
        let of_place = |place: &str, count: usize| {
            let spectra = &self.spectra[&format!("layer{layer}/{place}")];
            kappas(&spectra[spectra.len() - count..])
        };
        let (of_attention, of_input) = (of_place("attention", left.len()), of_place("input", 1));
        let heads = left.iter().zip(&of_attention).zip(weights);
        let bounds = heads.map(|((&left, p), w_v)| Bound::new(left, p * of_input[0] * w_v));
        self.bounds.entry(layer).or_default().extend(bounds);
        Ok(())
    }

    /// The median of each singular value of a place, largest first, over the matrices that have the most: those of
    /// shorter sequences would make it rise where they end.
    pub fn median_spectrum(&self, place: &str) -> Vec<f64> {
        let spectra = self.spectra.get(place).map_or(&[][..], Vec::as_slice);
        let spectra = || spectra.iter().map(Spectrum::singular_values);
        let longest = spectra().map(<[f64]>::len).max().unwrap_or(0);
        let of = |i: usize| {
            let whole = spectra().filter(|values| values.len() == longest);
            median(&whole.map(|values| values[i]).collect::<Vec<_>>()).unwrap_or(f64::NAN)
        };
        (0..longest).map(of).collect()
    }

    /// All numbers by name.
    pub fn findings(&self) -> Findings {
        let mut found = Findings::default();
        let mut add = |name: String, values: &[f64]| {
            for (suffix, p) in [("", 0.5), ("_q1", 0.25), ("_q3", 0.75)] {
                let value = quantile(values, p).unwrap_or(f64::NAN);
                found.metrics.insert(format!("{name}{suffix}"), value);
            }
        };
        for (place, spectra) in &self.spectra {
            for (measure, of) in MEASURES {
                add(format!("{place}/{measure}"), &spectra.iter().map(of).collect::<Vec<_>>());
            }
        }
        let mut violations = BTreeMap::new();
        for (layer, bounds) in &self.bounds {
            let side = |of: fn(&Bound) -> f64| bounds.iter().map(of).collect::<Vec<_>>();
            add(format!("layer{layer}/bound_left"), &side(|bound| bound.left));
            add(format!("layer{layer}/bound_right"), &side(|bound| bound.right));
            let missed = bounds.iter().filter(|bound| bound.ratio > 1.0).count();
            let share = missed as f64 / bounds.len() as f64;
            violations.insert(format!("layer{layer}/violations"), share);
        }
        found.metrics.extend(violations);
        for place in self.spectra.keys() {
            let spectrum = self.median_spectrum(place).into_iter().map(|sigma| sigma as f32);
            found.spectra.insert(place.clone(), spectrum.collect());
        }
        found
    }
}

/// The matrices (M, ..) of a place that are measured.
fn measured(matrices: &Tensor) -> Result<Tensor> {
    let count = matrices.dim(0)?;
    if count <= MATRICES {
        return Ok(matrices.clone());
    }
    let chosen: Vec<u32> = (0..count as u32).step_by(count.div_ceil(MATRICES)).collect();
    matrices.index_select(&Tensor::new(chosen, matrices.device())?, 0)
}

/// The condition numbers, infinite above what f64 resolves.
fn kappas(spectra: &[Spectrum]) -> Vec<f64> {
    let kappa = |spectrum: &Spectrum| match spectrum.condition_number() {
        kappa if kappa < RESOLVED_IN_F64 => kappa,
        _ => f64::INFINITY,
    };
    spectra.iter().map(kappa).collect()
}

/// What was seen of sequences one by one, of the first [`SEQUENCES`] of them.
///
/// # Errors
/// The first error among them, or when something is not finite.
pub fn findings(
    seen: impl IntoIterator<Item = std::result::Result<Seen, TaskError>>,
) -> std::result::Result<Findings, TaskError> {
    let mut inside = Inside::default();
    for seen in seen.into_iter().take(SEQUENCES) {
        inside.add(&seen?)?;
    }
    Ok(inside.findings())
}

/// The rows of a tensor one by one, each (1, ..).
///
/// # Errors
/// Of each row, when it cannot be taken.
pub fn singles(batch: &Tensor) -> impl Iterator<Item = Result<Tensor>> + '_ {
    let rows = batch.dims().first().copied().unwrap_or(0);
    (0..rows).map(|row| batch.narrow(0, row, 1)?.contiguous())
}
