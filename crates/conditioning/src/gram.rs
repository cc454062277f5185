//! The Gram matrix of many tokens.
//!
//! ```text
//! G = X^T X / R   (d, d),   X: (R, d) all real tokens of a batch
//! ```

use candle_core::Tensor;
use faer::Mat;

use crate::blocks::{Layout, check_channels};
use crate::exact::gram;
use crate::host::each_block;
use crate::{Error, Result};

/// The fewest tokens worth a block of their own.
const BLOCK: usize = 256;

/// Blocks at most: bounds the partial sums held at once, and with them the memory.
const BLOCKS: usize = 16;

/// A sum of outer products of tokens.
pub(crate) struct GramSum {
    /// Lower triangle of X^T X: (d, d).
    sum: Mat<f64>,
    tokens: usize,
}

impl GramSum {
    /// Of no tokens.
    pub(crate) fn zero(channels: usize) -> Self {
        Self { sum: Mat::zeros(channels, channels), tokens: 0 }
    }

    /// Of the real tokens of x: (..., N, d), mask (..., N).
    ///
    /// The tokens are cut into blocks by their number alone and the blocks are added in order, so
    /// that the bits do not depend on the number of threads.
    pub(crate) fn of(x: &Tensor, mask: Option<&Tensor>, channels: usize) -> Result<Self> {
        check_channels(x, channels)?;
        let rows = x.elem_count() / channels.max(1);
        let layout = Layout::rows(x, mask, BLOCK.max(rows.div_ceil(BLOCKS)))?;
        let parts = each_block("x", x, &layout, |block| {
            let X = block.matrix();
            let sum = gram(X.transpose(), block.scale.recip() * block.scale.recip());
            Ok(Self { sum, tokens: X.nrows() })
        })?;
        let mut total = Self::zero(channels);
        for part in parts.into_iter().flatten() {
            total.add(&part);
        }
        Ok(total)
    }

    /// Adds another sum.
    pub(crate) fn add(&mut self, other: &Self) {
        self.sum += &other.sum;
        self.tokens += other.tokens;
    }

    /// G, row by row: the mean over the tokens, with both triangles.
    pub(crate) fn mean(&self) -> Result<Vec<f64>> {
        if self.tokens == 0 {
            return Err(Error::NoTokens);
        }
        let (d, count) = (self.sum.nrows(), self.tokens as f64);
        let entry = |i: usize, j: usize| self.sum[(i.max(j), i.min(j))] / count;
        Ok((0..d * d).map(|at| entry(at / d, at % d)).collect())
    }
}
