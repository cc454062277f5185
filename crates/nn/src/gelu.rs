//! The Gaussian error linear unit (Hendrycks & Gimpel 2016).

use std::borrow::Cow;

use candle_core::{Result, Tensor};

use crate::kernel::{self, Real};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, device, sequence};

/// Which form of the GELU.
///
/// In `f32` on the CPU the absolute error of either is below 1e-6 max(1, |x|).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// y = x Phi(x) = x/2 (1 + erf(x / sqrt 2)), the form of ViT and BERT.
    Erf,
    /// y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the form of GPT-2.
    Tanh,
}

/// The exact GELU, [`Gelu::Erf`].
///
/// # Errors
/// When the dtype is not a float.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    sequence::single(x, Gelu::Erf, Mode::Eval)
}

/// The approximate GELU, [`Gelu::Tanh`].
///
/// # Errors
/// When the dtype is not a float.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    sequence::single(x, Gelu::Tanh, Mode::Eval)
}

/// The factor of x in both forms: Phi(x), or its approximation 1/(1 + e^(-2u)) = (1 + tanh u)/2.
#[inline(always)]
pub(crate) fn gate<T: Real>(form: Gelu, x: T) -> T {
    match form {
        Gelu::Erf => {
            let half = T::from_f64(0.5);
            half + half * (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf()
        }
        Gelu::Tanh => {
            let inner = T::ONE + T::from_f64(CUBIC) * x * x;
            T::ONE / (T::ONE + (T::from_f64(-2.0 * SQRT_2_OVER_PI) * x * inner).exp())
        }
    }
}

/// The cubic coefficient of the approximation.
const CUBIC: f64 = 0.044_715;

/// sqrt(2 / pi).
const SQRT_2_OVER_PI: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;

/// d/dx of x gate(x): Phi(x) + x phi(x) with the normal density phi, or
/// s + x s (1 - s) 2 u' with s the gate and u' = sqrt(2/pi) (1 + 3 c x^2).
#[inline(always)]
pub(crate) fn slope<T: Real>(form: Gelu, x: T) -> T {
    let gate = gate(form, x);
    match form {
        Gelu::Erf => {
            let density = (T::from_f64(-0.5) * x * x).exp() * T::from_f64(0.5 * SQRT_2_OVER_PI);
            gate + x * density
        }
        Gelu::Tanh => {
            let inner = T::ONE + T::from_f64(3.0 * CUBIC) * x * x;
            gate + x * gate * (T::ONE - gate) * T::from_f64(2.0 * SQRT_2_OVER_PI) * inner
        }
    }
}

impl Kernel for Gelu {
    const NAME: &'static str = "gelu";

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        Ok(dims.to_vec())
    }

    fn on_device(&self, x: &Tensor, _: Pass<'_>) -> Result<Tensor> {
        device::gelu(x, *self)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let x = input.x;
        Ok(match self {
            Self::Erf => kernel::map(
                x,
                #[inline(always)]
                |x| x * gate(Self::Erf, x),
            ),
            Self::Tanh => kernel::map(
                x,
                #[inline(always)]
                |x| x * gate(Self::Tanh, x),
            ),
        })
    }

    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let x = input.x;
        let mut g = g.into_owned();
        match self {
            Self::Erf => kernel::zip_in_place(
                &mut g,
                x,
                #[inline(always)]
                |g, x| g * slope(Self::Erf, x),
            ),
            Self::Tanh => kernel::zip_in_place(
                &mut g,
                x,
                #[inline(always)]
                |g, x| g * slope(Self::Tanh, x),
            ),
        }
        g.into()
    }
}
