//! Mean, deviation and the paired difference of two arms, with its interval.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Level of every interval.
pub const LEVEL: f64 = 0.95;

/// Mean and deviation of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// The number of values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, with n - 1; `None` of a single value.
    pub sd: Option<f64>,
}

impl Sample {
    /// Of `values`; `None` when there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let sd = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        Some(Self { n, mean, sd })
    }

    /// Half the width of the t-interval of the mean, t_{n-1} sd / sqrt(n); `None` of one value.
    pub fn half_width(&self) -> Option<f64> {
        let t = StudentsT::new(0.0, 1.0, self.n as f64 - 1.0).ok()?;
        let quantile = t.inverse_cdf(0.5 + LEVEL / 2.0);
        Some(quantile * self.sd? / (self.n as f64).sqrt())
    }
}

impl Sample {
    /// The two-sided p value of the mean against 0, by Student's t with n - 1 degrees of freedom; `None` of one
    /// value, and where a value is not finite. Of values that are all the same it is 0, or 1 where they are 0.
    pub fn p_value(&self) -> Option<f64> {
        let error = self.sd? / (self.n as f64).sqrt();
        if !self.mean.is_finite() || !error.is_finite() {
            return None;
        }
        if error == 0.0 {
            return Some(if self.mean == 0.0 { 1.0 } else { 0.0 });
        }
        let t = StudentsT::new(0.0, 1.0, self.n as f64 - 1.0).ok()?;
        Some(2.0 * t.cdf(-(self.mean / error).abs()))
    }
}

/// Holm's correction (1979): the p values of a family, adjusted so that rejecting those at most `alpha` errs
/// once with a probability of at most `alpha`. The k-th smallest of m is `max over j <= k of (m - j + 1) p_(j)`,
/// at most 1; the order is that of the input.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let (mut adjusted, mut largest) = (vec![1.0; p.len()], 0f64);
    for (smaller, at) in order.into_iter().enumerate() {
        largest = largest.max((p.len() - smaller) as f64 * p[at]).min(1.0);
        adjusted[at] = largest;
    }
    adjusted
}

impl Sample {
    /// Mean and deviation to some decimals: `91.6 ± 0.4, 5`.
    pub fn spread(&self, decimals: usize) -> String {
        match self {
            Self { n, mean, sd: Some(sd) } => format!("{mean:.decimals$} ± {sd:.decimals$}, {n}"),
            Self { mean, .. } => format!("{mean:.decimals$}, single seed"),
        }
    }

    /// Of differences: mean and interval to some decimals, `+2.0 [-10.7, +14.7], 2`.
    pub fn difference(&self, decimals: usize) -> String {
        let mean = self.mean;
        match self.half_width() {
            None => format!("{mean:+.decimals$}, single seed"),
            Some(half) => format!(
                "{mean:+.decimals$} [{:+.decimals$}, {:+.decimals$}], {}",
                mean - half,
                mean + half,
                self.n
            ),
        }
    }
}

/// The median; infinite values take part. `None` when there are no values or one is NaN.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value below which the share `p` in [0, 1] of all lies, between its neighbours in order in a line, as NumPy
/// has it; infinite values take part. `None` when there are no values or one is NaN.
pub fn quantile(values: &[f64], p: f64) -> Option<f64> {
    if values.is_empty() || values.iter().any(|v| v.is_nan()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = p * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(match place.fract() {
        // From an infinite one there is nowhere to go: infinity minus itself is no number.
        _ if below == above || below.is_infinite() => below,
        // The mean of two in the middle, rounded once.
        0.5 => 0.5 * (below + above),
        part => below + part * (above - below),
    })
}
