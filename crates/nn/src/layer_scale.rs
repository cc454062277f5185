//! Layer scale (Touvron et al. 2021, "Going deeper with image transformers").

use std::borrow::Cow;

use candle_core::{Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::kernel::{self, Real};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, reference, sequence};

/// Every channel times a factor of its own: y = gamma * x over the last dimension.
#[derive(Debug, Clone)]
pub struct LayerScale {
    gamma: Tensor,
}

impl LayerScale {
    /// A layer over given factors (width,).
    pub fn from_tensor(gamma: Tensor) -> Self {
        Self { gamma }
    }

    /// A layer of `width` channels whose factors, the parameter `name` (width,) of `vb`, such as `gamma1`,
    /// start at `value`.
    ///
    /// # Errors
    /// When the parameter cannot be created or has another shape.
    pub fn new(vb: VarBuilder, name: &str, width: usize, value: f64) -> Result<Self> {
        Ok(Self { gamma: vb.get_with_hints(width, name, Init::Const(value))? })
    }
}

impl Module for LayerScale {
    /// (..., C) -> (..., C).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        sequence::single(x, self.clone(), Mode::Eval)
    }
}

impl Kernel for LayerScale {
    const NAME: &'static str = "layer-scale";
    const CHEAP: bool = true;

    fn parameters(&self, _: Mode) -> Vec<&Tensor> {
        vec![&self.gamma]
    }

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        let gamma = self.gamma.dims();
        if gamma.len() != 1 || dims.last() != gamma.last() {
            candle_core::bail!(
                "layer-scale: input {dims:?} and factors {gamma:?} do not share the last dimension"
            );
        }
        Ok(dims.to_vec())
    }

    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        reference::layer_scale(&pass.mode.precision().whole(x, &self.gamma)?, &self.gamma)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let Input { x, parameters, at } = input;
        let (c, gamma) = (at.rows().width, parameters[0]);
        Ok(kernel::map_rows(
            x,
            c,
            #[inline(always)]
            |x, y| {
                for ((y, &x), &gamma) in y.iter_mut().zip(x).zip(gamma) {
                    *y = x * gamma;
                }
            },
        ))
    }

    /// dx = gamma g, dgamma = sum over rows of g x.
    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let Input { x, parameters, at } = input;
        let (c, gamma) = (at.rows().width, parameters[0]);
        let mut dx = g.into_owned();
        let sums = kernel::for_pieces_with_sums(&mut dx, c, c, |start, dx, sums| {
            kernel::vectorised(
                #[inline(always)]
                || {
                    for (x, g) in x[start..].chunks_exact(c).zip(dx.chunks_exact_mut(c)) {
                        for j in 0..c {
                            sums[j] += g[j] * x[j];
                            g[j] *= gamma[j];
                        }
                    }
                },
            );
        });
        Gradients { input: Some(dx), parameters: vec![sums] }
    }
}
