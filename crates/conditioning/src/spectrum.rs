//! Singular values and condition numbers of token matrices.
//!
//! ```text
//! kappa(X) = sigma_1 / sigma_min(N, d)
//! ```
//!
//! They come from a singular value decomposition of X itself in f64, not from `X^T X`: the Gram
//! matrix squares kappa and with it loses half the digits (an error of 1.5e-6 at kappa 1e6).

use candle_core::{Device, Tensor};

use crate::Result;
use crate::blocks::Layout;
use crate::exact::TAU;
use crate::host::each_block;
use crate::svd::singular_values;

/// The singular values of one token matrix, largest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Spectrum {
    values: Vec<f64>,
}

impl Spectrum {
    /// sigma_1 >= sigma_2 >= ... >= sigma_min(N, d).
    pub fn singular_values(&self) -> &[f64] {
        &self.values
    }

    /// sigma_1, zero for a matrix without entries.
    pub fn spectral_norm(&self) -> f64 {
        self.values.first().copied().unwrap_or(0.0)
    }

    /// The numerical rank: how many sigma_i reach [`TAU`] sigma_1; zero for the zero matrix.
    pub fn rank(&self) -> usize {
        let floor = TAU * self.spectral_norm();
        self.values.iter().filter(|&&sigma| sigma > 0.0 && sigma >= floor).count()
    }

    /// kappa = sigma_1 / sigma_min(N, d), infinite where X is singular.
    pub fn condition_number(&self) -> f64 {
        self.ratio_to(self.values.len())
    }

    /// sigma_1 / sigma_r with r the numerical rank, infinite for the zero matrix.
    pub fn effective_condition_number(&self) -> f64 {
        self.ratio_to(self.rank())
    }

    /// The entropy of the singular values in nats, H = -sum p_i ln p_i with p_i = sigma_i / sum sigma_j; zero for
    /// the zero matrix.
    ///
    /// ln min(N, d) where all singular values are equal, 0 for rank one.
    pub fn entropy(&self) -> f64 {
        let sum: f64 = self.values.iter().sum();
        let shares = self.values.iter().map(|sigma| sigma / sum).filter(|&share| share > 0.0);
        // Of a single share -0.
        shares.map(|share| -share * share.ln()).sum::<f64>().max(0.0)
    }

    /// The effective rank exp(H), H the [entropy](Self::entropy): between 1 and min(N, d), 0 for the zero matrix.
    ///
    /// Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    pub fn effective_rank(&self) -> f64 {
        if self.spectral_norm() > 0.0 { self.entropy().exp() } else { 0.0 }
    }

    fn ratio_to(&self, count: usize) -> f64 {
        match self.values[..count].last() {
            Some(&sigma) if sigma > 0.0 => self.spectral_norm() / sigma,
            _ => f64::INFINITY,
        }
    }
}

/// The spectrum of every sequence of `x`: (B, N, d) gives B of them, (N, d) gives one.
///
/// # Errors
///
/// Another rank or dtype, NaN or infinity in `x`, no convergence.
pub fn spectra(x: &Tensor) -> Result<Vec<Spectrum>> {
    spectra_of(x, None)
}

/// [`spectra`] over the real tokens alone; `mask`: (B, N) or (N,) u8, 1 = real.
///
/// A sequence that is all padding has no singular values and an infinite condition number.
///
/// # Errors
///
/// Those of [`spectra`], and a mask of another shape or dtype.
pub fn spectra_masked(x: &Tensor, mask: &Tensor) -> Result<Vec<Spectrum>> {
    spectra_of(x, Some(mask))
}

/// kappa(X) of every sequence over its min(N, d) singular values: (B, N, d) -> (B,) and
/// (N, d) -> (), f64 on the CPU, infinite where X is singular.
///
/// # Errors
///
/// Those of [`spectra`].
pub fn condition_number(x: &Tensor) -> Result<Tensor> {
    per_sequence(x, Spectrum::condition_number)
}

/// The condition number over the numerical rank, sigma_i >= [`TAU`] sigma_1; shapes as in
/// [`condition_number`].
///
/// # Errors
///
/// Those of [`spectra`].
pub fn effective_condition_number(x: &Tensor) -> Result<Tensor> {
    per_sequence(x, Spectrum::effective_condition_number)
}

fn per_sequence(x: &Tensor, f: impl Fn(&Spectrum) -> f64) -> Result<Tensor> {
    let values: Vec<f64> = spectra(x)?.iter().map(f).collect();
    let leading = &x.dims()[..x.rank() - 2];
    Ok(Tensor::from_vec(values, leading, &Device::Cpu)?)
}

fn spectra_of(x: &Tensor, mask: Option<&Tensor>) -> Result<Vec<Spectrum>> {
    let layout = Layout::sequences(x, mask)?;
    let mut found = each_block("x", x, &layout, |block| {
        let mut values = singular_values(block.matrix())?;
        values.iter_mut().for_each(|sigma| *sigma /= block.scale);
        Ok(Spectrum { values })
    })?;
    // Sequences without tokens are no blocks.
    found.resize_with(x.dims()[..x.rank() - 2].iter().product(), || None);
    Ok(found.into_iter().map(|s| s.unwrap_or(Spectrum { values: Vec::new() })).collect())
}
