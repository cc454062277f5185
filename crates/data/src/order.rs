//! The order of an epoch whose rows have lengths, and where its batches are in it.

use std::iter::{Skip, StepBy};
use std::ops::Range;
use std::vec::IntoIter;

use rand::seq::SliceRandom;

use crate::stream::{Purpose, stream};
use crate::{Error, Result};

/// Batches of an epoch whose rows are sorted by length together: enough for little filling, few enough that a batch
/// is still a draw from all lengths of the order.
const BUCKET: usize = 50;

/// How rows of several lengths are put into batches.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) batch_size: usize,
    pub(crate) seed: u64,
    pub(crate) shuffle: bool,
    pub(crate) buckets: bool,
}

impl Order {
    /// # Errors
    /// When a batch has no row.
    pub(crate) fn check(&self) -> Result<()> {
        match self.batch_size {
            0 => Err(Error::config("batch_size", 0, "expected at least 1")),
            _ => Ok(()),
        }
    }

    /// Batches in an epoch of `rows` rows.
    pub(crate) fn batches(&self, rows: usize) -> usize {
        rows.div_ceil(self.batch_size)
    }

    /// Batches `first`, `first + every`, ... of epoch `epoch`, of rows with these lengths.
    pub(crate) fn epoch(
        &self,
        lengths: &[usize],
        epoch: usize,
        first: usize,
        every: usize,
    ) -> OrderedEpoch {
        let (n, size) = (lengths.len(), self.batch_size);
        let mut rows: Vec<usize> = (0..n).collect();
        let mut batches: Vec<Range<usize>> =
            (0..n).step_by(size).map(|start| start..n.min(start.saturating_add(size))).collect();
        let mut rng = stream(self.seed, epoch, 0, Purpose::Order);
        if self.shuffle {
            rows.shuffle(&mut rng);
        }
        let one_length = lengths.windows(2).all(|pair| pair[0] == pair[1]);
        if self.buckets && !one_length {
            let together = if self.shuffle { BUCKET.saturating_mul(size) } else { n };
            for rows in rows.chunks_mut(together.max(1)) {
                // Stable: equal lengths keep the order that was drawn.
                rows.sort_by_key(|&i| lengths[i]);
            }
            if self.shuffle {
                batches.shuffle(&mut rng);
            }
        }
        OrderedEpoch { rows, batches: batches.into_iter().skip(first).step_by(every) }
    }
}

/// The rows of an epoch in the order of their use, and the batches that are left of it.
#[derive(Debug)]
pub(crate) struct OrderedEpoch {
    rows: Vec<usize>,
    batches: StepBy<Skip<IntoIter<Range<usize>>>>,
}

impl OrderedEpoch {
    /// The rows of the next batch.
    pub(crate) fn next_batch(&mut self) -> Option<&[usize]> {
        self.batches.next().map(|batch| &self.rows[batch])
    }

    pub(crate) fn size_hint(&self) -> (usize, Option<usize>) {
        self.batches.size_hint()
    }
}
