//! The Gram matrix of many tokens.
//!
//! ```text
//! G = X^T X / R   (d, d),   X: (R, d) all real tokens of a batch
//! ```

use candle_core::{DType, Tensor};
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
            // (d, d) is copied to the host and not the tokens.
            let found = DeviceGram::of(x, mask, channels)?.on_host(channels)?;
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

/// A sum of outer products of tokens in f64 on their device: not on Metal, which has no f64. The host waits for nothing.
#[derive(Debug, Clone)]
pub(crate) struct DeviceGram {
    /// X^T X: (d, d).
    sum: Tensor,
    /// The number of tokens: (), f64.
    tokens: Tensor,
}

impl DeviceGram {
    /// Of the real tokens of x: (..., N, d), mask (..., N).
    pub(crate) fn of(x: &Tensor, mask: Option<&Tensor>, channels: usize) -> Result<Self> {
        check_channels(x, channels)?;
        let (x, device) = (x.detach(), x.device());
        let rows = x.elem_count() / channels.max(1);
        let (x, tokens) = match mask {
            Some(mask) => {
                let x = spread(mask, &x)?.where_cond(&x, &x.zeros_like()?)?;
                let real = mask.to_device(device)?.ne(0u8)?.to_dtype(DType::F64)?;
                (x, real.sum_all()?)
            }
            None => (x, Tensor::new(rows as f64, device)?),
        };
        if rows == 0 {
            let sum = Tensor::zeros((channels, channels), DType::F64, device)?;
            return Ok(Self { sum, tokens });
        }
        let X = x.reshape((rows, channels))?.to_dtype(DType::F64)?;
        Ok(Self { sum: X.t()?.matmul(&X)?, tokens })
    }

    /// The sum with another one.
    pub(crate) fn plus(&self, other: &Self) -> Result<Self> {
        Ok(Self { sum: (&self.sum + &other.sum)?, tokens: (&self.tokens + &other.tokens)? })
    }

    /// G: (d, d), zero of no tokens.
    pub(crate) fn mean(&self) -> Result<Tensor> {
        Ok(self.sum.broadcast_div(&self.tokens.maximum(1.0)?)?)
    }

    /// The number of tokens: (), f64.
    pub(crate) fn tokens(&self) -> &Tensor {
        &self.tokens
    }

    fn on_host(&self, channels: usize) -> Result<GramSum> {
        let sum = self.sum.flatten_all()?.to_vec1()?;
        Ok(GramSum { sum, channels, tokens: self.tokens.to_scalar::<f64>()? as usize })
    }
}

fn add(sum: &mut [f64], part: &[f64]) {
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum += part;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Sums of a few hundred products in another order.
    const TOLERANCE: f64 = 1e-12;

    #[test]
    fn on_a_device_it_is_the_same() -> Result<()> {
        let cpu = &Device::Cpu;
        let x = Tensor::randn(0f32, 1.0, (3, 7, 5), cpu)?;
        let mask = Tensor::new(&[[1u8; 7], [1, 1, 0, 1, 0, 0, 0], [0; 7]], cpu)?;
        for mask in [None, Some(&mask)] {
            let want = GramSum::of(&x, mask, 5)?.mean()?;
            let on_device = DeviceGram::of(&x, mask, 5)?;
            let twice = on_device.plus(&on_device)?.mean()?.flatten_all()?;
            let twice = twice.to_vec1::<f64>()?;
            let got = on_device.on_host(5)?.mean()?;
            for (twice, got) in twice.iter().zip(&got) {
                assert!((twice - got).abs() < TOLERANCE, "{twice} {got}");
            }
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < TOLERANCE, "{got} {want}");
            }
        }
        Ok(())
    }
}
