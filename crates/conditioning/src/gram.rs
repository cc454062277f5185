//! The Gram matrix of many tokens.
//!
//! ```text
//! G = X^T X / R   (d, d),   X: (R, d) all real tokens of a batch
//! ```

use candle_core::Tensor;
use rayon::prelude::*;

use crate::blocks::{Layout, check_channels};
use crate::exact::gram;
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
        check_channels(x, channels)?;
        let rows = x.elem_count() / channels.max(1);
        let layout = Layout::rows(x, mask, BLOCK.max(rows.div_ceil(BLOCKS)))?;
        let parts = each_block("x", x, &layout, |block| {
            let X = block.matrix();
            Ok((gram(X.transpose(), block.scale.recip() * block.scale.recip()), X.nrows()))
        })?;
        let mut total = Self::zero(channels);
        total.sum.par_chunks_mut(channels.max(1)).enumerate().for_each(|(i, row)| {
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

fn add(sum: &mut [f64], part: &[f64]) {
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum += part;
    }
}
