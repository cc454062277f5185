//! Global average pooling: the mean over all tokens of an image or a sequence.

use std::borrow::Cow;

use candle_core::{Module, Result, Tensor};

use crate::kernel::{self, Real};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, device, reference, sequence};

/// The mean over all tokens: y_bc = 1/N sum over n of x_bnc.
///
/// x is (B, ..., C), such as (B, N, C) or (B, H, W, C), with N tokens between; y is (B, C). Of padded sequences it is
/// the mean over real tokens.
#[derive(Debug, Clone, Copy)]
pub struct AveragePool;

impl Module for AveragePool {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        sequence::single(x, *self, Mode::Eval)
    }
}

/// The mean over all tokens, (B, ..., C) -> (B, C); see [`AveragePool`].
///
/// # Errors
/// When x has less than three dimensions or no tokens, or its dtype is not a float.
pub fn average_pool(x: &Tensor) -> Result<Tensor> {
    x.apply(&AveragePool)
}

impl Kernel for AveragePool {
    const NAME: &'static str = "average-pool";

    fn output(&self, At { dims, pass }: At<'_>) -> Result<Vec<usize>> {
        if let Some(padding) = pass.padding {
            padding.check(dims)?;
        }
        match *dims {
            [b, ref tokens @ .., c] if !tokens.is_empty() && !tokens.contains(&0) => Ok(vec![b, c]),
            _ => candle_core::bail!("average-pool: input {dims:?} is not (B, tokens, C)"),
        }
    }

    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        device::widened(x, |x| match pass.padding {
            None => reference::average_pool(x),
            Some(padding) => reference::padded_average_pool(x, padding),
        })
    }

    /// Sums are taken in f64.
    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let (x, rows) = (input.x, input.at.rows());
        let (c, len) = (rows.width, rows.tokens * rows.width);
        Ok(kernel::build(rows.batch * c, c, |i, y| {
            let real = real(&input.at, i);
            let mut sums = vec![0.0; c];
            kernel::vectorised(
                #[inline(always)]
                || {
                    for x in x[i * len..(i + 1) * len].chunks_exact(c).take(real) {
                        for j in 0..c {
                            sums[j] += x[j].wide();
                        }
                    }
                },
            );
            for (y, sum) in y.iter_mut().zip(sums) {
                *y = T::from_f64(sum / real as f64);
            }
        }))
    }

    /// dx_bnc = g_bc / N; zero at padding.
    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let rows = input.at.rows();
        let (c, len) = (rows.width, rows.tokens * rows.width);
        kernel::build(input.x.len(), len, |i, dx| {
            let real = real(&input.at, i);
            let scale = T::from_f64(1.0 / real as f64);
            let mut row = g[i * c..(i + 1) * c].to_vec();
            row.iter_mut().for_each(|v| *v *= scale);
            dx.chunks_exact_mut(c).take(real).for_each(|dx| dx.copy_from_slice(&row));
        })
        .into()
    }
}

/// Real tokens of sequence `i`.
fn real(at: &At<'_>, i: usize) -> usize {
    at.pass.padding.map_or(at.rows().tokens, |padding| padding.lengths()[i])
}
