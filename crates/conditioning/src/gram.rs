//! The Gram matrix of many tokens.
//!
//! ```text
//! G = X^T X / R   (d, d),   X: (R, d) all real tokens of a batch
//! ```

use candle_core::{DType, Device, Tensor};
use conditioned_threads as threads;

use crate::blocks::{Layout, check_channels};
use crate::exact::gram;
use crate::flat::spread;
use crate::host::each_block;
use crate::{Error, Result};

/// The fewest tokens worth a block of their own.
const BLOCK: usize = 256;

/// Blocks at most: bounds the partial sums held at once, and with them the memory and the time to
/// add them.
const BLOCKS: usize = 8;

/// A sum of outer products of tokens.
#[derive(Debug, Clone)]
pub(crate) struct GramSum {
    /// Upper triangle of X^T X: (d, d), row by row.
    sum: Vec<f64>,
    channels: usize,
    tokens: usize,
}

impl GramSum {
    /// Of no tokens.
    pub(crate) fn zero(channels: usize) -> Self {
        Self { sum: vec![0.0; channels * channels], channels, tokens: 0 }
    }

    /// Of the real tokens of x: (..., N, d), mask (..., N).
    ///
    /// The tokens are cut into blocks by their number alone and the blocks are added in order, so
    /// that the bits do not depend on the number of threads.
    pub(crate) fn of(x: &Tensor, mask: Option<&Tensor>, channels: usize) -> Result<Self> {
        Self::of_named("x", x, mask, channels)
    }

    /// The same of a tensor that has this name in errors.
    pub(crate) fn of_named(
        name: &'static str,
        x: &Tensor,
        mask: Option<&Tensor>,
        channels: usize,
    ) -> Result<Self> {
        check_channels(x, channels)?;
        if x.device().is_cuda() {
            let found = Self::by_tensors(x, mask, channels)?;
            // Else the host finds the number that is to blame, or has the range.
            if found.sum.iter().all(|entry| entry.is_finite()) {
                return Ok(found);
            }
        }
        let rows = x.elem_count() / channels.max(1);
        let layout = Layout::rows(x, mask, BLOCK.max(rows.div_ceil(BLOCKS)))?;
        let parts = each_block(name, x, &layout, |block| {
            let X = block.matrix();
            Ok((gram(X.transpose(), block.scale.recip() * block.scale.recip()), X.nrows()))
        })?;
        let mut total = Self::zero(channels);
        threads::for_each(total.sum.chunks_mut(channels.max(1)), |i, row| {
            for (part, _) in parts.iter().flatten() {
                // Row i of the upper triangle is column i of the lower one.
                add(&mut row[i..], &part.col_as_slice(i)[i..]);
            }
        });
        total.tokens = parts.iter().flatten().map(|(_, tokens)| tokens).sum();
        Ok(total)
    }

    /// The same in f64 on the device of x, so that (d, d) is copied to the host and not the tokens; not on Metal, which
    /// has no f64.
    fn by_tensors(x: &Tensor, mask: Option<&Tensor>, channels: usize) -> Result<Self> {
        let rows = x.elem_count() / channels.max(1);
        if x.elem_count() == 0 {
            return Ok(Self::zero(channels));
        }
        let x = x.detach();
        let (x, tokens) = match mask {
            Some(mask) => {
                // Checks the mask, too, and counts.
                let tokens = Layout::rows(&x, Some(mask), rows.max(1))?.real();
                (spread(mask, &x)?.where_cond(&x, &x.zeros_like()?)?, tokens)
            }
            None => (x, rows),
        };
        let X = x.reshape((rows, channels))?.to_dtype(DType::F64)?;
        let sum = X.t()?.matmul(&X)?.flatten_all()?.to_device(&Device::Cpu)?.to_vec1()?;
        Ok(Self { sum, channels, tokens })
    }

    /// Whether it is the sum of no tokens.
    pub(crate) fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Adds another sum.
    pub(crate) fn add(&mut self, other: &Self) {
        add(&mut self.sum, &other.sum);
        self.tokens += other.tokens;
    }

    /// G, row by row: the mean over the tokens, with both triangles.
    pub(crate) fn mean(mut self) -> Result<Vec<f64>> {
        if self.tokens == 0 {
            return Err(Error::NoTokens);
        }
        let (d, count) = (self.channels, self.tokens as f64);
        for i in 0..d {
            for j in i..d {
                self.sum[i * d + j] /= count;
                self.sum[j * d + i] = self.sum[i * d + j];
            }
        }
        Ok(self.sum)
    }
}

fn add(sum: &mut [f64], part: &[f64]) {
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum += part;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of a few hundred products in another order.
    const TOLERANCE: f64 = 1e-12;

    #[test]
    fn by_tensors_it_is_the_same() -> Result<()> {
        let cpu = &Device::Cpu;
        let x = Tensor::randn(0f32, 1.0, (3, 7, 5), cpu)?;
        let mask = Tensor::new(&[[1u8; 7], [1, 1, 0, 1, 0, 0, 0], [0; 7]], cpu)?;
        for mask in [None, Some(&mask)] {
            let want = GramSum::of(&x, mask, 5)?.mean()?;
            let got = GramSum::by_tensors(&x, mask, 5)?.mean()?;
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < TOLERANCE, "{got} {want}");
            }
        }
        Ok(())
    }
}
