//! [`Metric`]: how predictions of a task of GLUE are scored.
//!
//! With the conventions of scikit-learn and SciPy where a quotient has no value.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::{Error, Result, Task};

/// A number for predictions, given the labels; 1 is the best.
///
/// ```
/// use conditioned_data::Metric;
///
/// let (predictions, labels) = ([1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]);
/// assert_eq!(Metric::Accuracy.compute(&predictions, &labels)?, Some(0.75));
/// assert_eq!(Metric::F1.compute(&predictions, &labels)?, Some(0.8));
/// assert_eq!(Metric::Pearson.compute(&[1.0, 1.0, 1.0, 1.0], &labels)?, None);
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Share of the predictions that are the label.
    Accuracy,
    /// 2 TP / (2 TP + FP + FN) of class 1; 0 where it is neither predicted nor there.
    F1,
    /// Correlation of predicted and true classes, of two or more; 0 where either is always the same.
    Matthews,
    /// Pearson's correlation; none where either is always the same.
    Pearson,
    /// Pearson's correlation of the ranks, equals sharing the mean of theirs; none as Pearson's.
    Spearman,
}

impl Metric {
    /// The name: "accuracy", "f1", "matthews", "pearson", "spearman".
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
            Self::Matthews => "matthews",
            Self::Pearson => "pearson",
            Self::Spearman => "spearman",
        }
    }

    /// The number for `predictions` of `labels`, classes or scores; `None` where it has no value.
    ///
    /// # Errors
    /// When there is no prediction or not one for each label, or one of the numbers is not finite.
    pub fn compute(self, predictions: &[f32], labels: &[f32]) -> Result<Option<f64>> {
        if predictions.is_empty() || predictions.len() != labels.len() {
            let expected = format!("expected one for each of the {} labels", labels.len());
            return Err(Error::config("predictions", predictions.len(), expected));
        }
        for (field, values) in [("predictions", predictions), ("labels", labels)] {
            if let Some(i) = values.iter().position(|value| !value.is_finite()) {
                let expected = format!("expected finite numbers (row {i})");
                return Err(Error::config(field, values[i], expected));
            }
        }
        Ok(match self {
            Self::Accuracy => Some(accuracy(predictions, labels)),
            Self::F1 => Some(f1(predictions, labels)),
            Self::Matthews => Some(matthews(predictions, labels)),
            Self::Pearson => pearson(&wide(predictions), &wide(labels)),
            Self::Spearman => pearson(&ranks(predictions), &ranks(labels)),
        })
    }
}

impl Task {
    /// What the task is scored by.
    pub fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Cola => &[Metric::Matthews],
            Self::Mrpc | Self::Qqp => &[Metric::Accuracy, Metric::F1],
            Self::StsB => &[Metric::Pearson, Metric::Spearman],
            Self::Sst2 | Self::Mnli | Self::Qnli | Self::Rte => &[Metric::Accuracy],
        }
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

fn accuracy(predictions: &[f32], labels: &[f32]) -> f64 {
    let right = predictions.iter().zip(labels).filter(|(p, l)| p == l).count();
    right as f64 / labels.len() as f64
}

fn f1(predictions: &[f32], labels: &[f32]) -> f64 {
    let positive = |values: &[f32]| values.iter().filter(|&&value| value == 1.0).count();
    let both = predictions.iter().zip(labels).filter(|(p, l)| **p == 1.0 && **l == 1.0).count();
    // TP + FP and TP + FN.
    match positive(predictions) + positive(labels) {
        0 => 0.0,
        sum => 2.0 * both as f64 / sum as f64,
    }
}

/// J. Gorodkin, *Comparing two K-category assignments by a K-category correlation coefficient*, 2004:
/// (c n - sum_k p_k l_k) / sqrt((n^2 - sum_k p_k^2) (n^2 - sum_k l_k^2)), c right of n, p_k predictions
/// and l_k labels of class k; for two classes that of Matthews.
fn matthews(predictions: &[f32], labels: &[f32]) -> f64 {
    let mut counts: BTreeMap<u32, [f64; 2]> = BTreeMap::new();
    for (i, values) in [predictions, labels].into_iter().enumerate() {
        for value in values {
            // As a key: -0 is 0.
            counts.entry((value + 0.0).to_bits()).or_default()[i] += 1.0;
        }
    }
    // Sums of whole numbers below 2^53: exact.
    let sum = |i: usize, j: usize| counts.values().map(|count| count[i] * count[j]).sum::<f64>();
    let n = labels.len() as f64;
    let right = predictions.iter().zip(labels).filter(|(p, l)| p == l).count() as f64;
    let spread = (n * n - sum(0, 0)) * (n * n - sum(1, 1));
    if spread == 0.0 { 0.0 } else { (right * n - sum(0, 1)) / spread.sqrt() }
}

/// Centred and scaled first, as SciPy does: no square of a large sum.
fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    let centred = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let centred: Vec<f64> = values.iter().map(|value| value - mean).collect();
        let norm = centred.iter().map(|value| value * value).sum::<f64>().sqrt();
        // Rounding of the mean would give equal values a direction.
        let varies = values.iter().any(|value| *value != values[0]);
        (varies && norm > 0.0).then(|| centred.into_iter().map(|value| value / norm).collect())
    };
    let (x, y): (Vec<f64>, Vec<f64>) = (centred(x)?, centred(y)?);
    Some(x.iter().zip(&y).map(|(x, y)| x * y).sum::<f64>().clamp(-1.0, 1.0))
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    // The values are finite.
    order.sort_by(|&i, &j| values[i].partial_cmp(&values[j]).unwrap_or(Ordering::Equal));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equal in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let mean = first as f64 + (equal.len() + 1) as f64 / 2.0;
        equal.iter().for_each(|&i| ranks[i] = mean);
        first += equal.len();
    }
    ranks
}
