//! [`SequenceLoader`]: seeded batches of labelled sequences, as long as their longest one.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::order::{Order, OrderedEpoch};
use crate::{Error, Result, SequenceSet};

/// How a [`SequenceLoader`] makes batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceLoaderConfig {
    /// Rows of the set in a batch, B: sequences, or pairs of them.
    pub batch_size: usize,
    /// Seed of the order.
    pub seed: u64,
    /// Whether each epoch has its own random order; otherwise that of the set.
    pub shuffle: bool,
    /// Whether sequences of about one length are put together, so that little is filled up.
    pub buckets: bool,
    /// The id of tokens that are left out of every sequence; the others keep their positions, and a sequence
    /// of such tokens alone keeps the first of them.
    ///
    /// With the id of black pixels a model sees what it sees in the code of the Long Range Arena, which takes
    /// them for padding.
    pub leave_out: Option<u16>,
}

impl SequenceLoaderConfig {
    /// For training: shuffled, every row once an epoch, with buckets, nothing left out.
    pub fn training(batch_size: usize, seed: u64) -> Self {
        Self { batch_size, seed, shuffle: true, buckets: true, leave_out: None }
    }

    /// For evaluation: every row once, sorted by length, nothing left out.
    pub fn evaluation(batch_size: usize) -> Self {
        Self { shuffle: false, ..Self::training(batch_size, 0) }
    }

    fn order(self) -> Order {
        let Self { batch_size, seed, shuffle, buckets, .. } = self;
        Order { batch_size, seed, shuffle, buckets }
    }
}

/// One batch of labelled sequences.
///
/// There are S rows: of single sequences S = B; of pairs S = 2B, rows 0 to B - 1 the first sequences and
/// rows B to 2B - 1 the second.
#[derive(Debug, Clone)]
pub struct SequenceBatch {
    /// Token ids, (S, N) in u32, N tokens of the longest sequence; 0 after the shorter ones.
    pub ids: Tensor,
    /// Where each token stands in its sequence, from 0, (S, N) in u32; 0 where it was filled up.
    pub positions: Tensor,
    /// 1 for tokens and 0 for what was filled up, (S, N) in u8.
    pub mask: Tensor,
    /// Classes, (B) in u32, on the CPU, where a loss reads them without waiting for a GPU.
    pub labels: Tensor,
    /// Places of the rows in the set, B of them.
    pub indices: Vec<usize>,
}

/// Makes the batches of any epoch, the same for the same seed.
///
/// The order of an epoch comes from (seed, epoch). With buckets, the rows of 50 batches of that order are
/// sorted by length, of pairs by that of the longer sequence, and cut into batches, and the batches of the
/// epoch are shuffled. Without shuffling all rows are sorted. Where all sequences have one length there is
/// nothing to sort.
///
/// ```
/// use std::sync::Arc;
/// use candle_core::Device;
/// use conditioned_data::{ListOps, SequenceLoader, SequenceLoaderConfig};
///
/// let set = Arc::new(ListOps::short().sequences(0, 0..100)?);
/// let config = SequenceLoaderConfig::training(32, 1);
/// let loader = SequenceLoader::new(set, config, &Device::Cpu)?;
/// assert_eq!(loader.batches(), 4);
/// for batch in loader.epoch(0) {
///     let batch = batch?;
///     assert_eq!(batch.ids.dims(), batch.positions.dims());
///     assert_eq!(batch.labels.dims(), [batch.indices.len()]);
/// }
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SequenceLoader {
    set: Arc<SequenceSet>,
    /// Tokens that are kept of each row, of pairs those of the longer sequence.
    lengths: Arc<[usize]>,
    config: SequenceLoaderConfig,
    device: Device,
}

impl SequenceLoader {
    /// Checks the settings against the set; batches will reach `device`.
    ///
    /// # Errors
    /// When B is 0, or what is to be left out is no token of the vocabulary.
    pub fn new(
        set: Arc<SequenceSet>,
        config: SequenceLoaderConfig,
        device: &Device,
    ) -> Result<Self> {
        config.order().check()?;
        if let Some(id) = config.leave_out
            && !(1..set.vocabulary()).contains(&usize::from(id))
        {
            let expected =
                format!("tokens of {:?} have ids 1 to {}", set.name(), set.vocabulary() - 1);
            return Err(Error::config("leave_out", id, expected));
        }
        let length = |sequence: &[u16]| kept(sequence, config.leave_out).count();
        let lengths = (0..set.len()).map(|i| {
            let second = set.pair(i).map_or(0, |(_, second)| length(second));
            set.sequence(i).map_or(0, length).max(second)
        });
        Ok(Self { lengths: lengths.collect(), set, config, device: device.clone() })
    }

    /// The sequences that batches are made of.
    pub fn set(&self) -> &SequenceSet {
        &self.set
    }

    /// Batches in an epoch; one of them may have fewer than B rows.
    pub fn batches(&self) -> usize {
        self.config.order().batches(self.set.len())
    }

    /// The batches of epoch `epoch`.
    pub fn epoch(&self, epoch: usize) -> SequenceEpoch {
        self.epoch_from(epoch, 0, 1)
    }

    /// Batches `first`, `first + every`, ... of epoch `epoch`: those left of an interrupted run, or those of one
    /// among several processes.
    ///
    /// They are the same that [`epoch`](Self::epoch) gives at their places; none past the end.
    ///
    /// # Panics
    /// When `every` is 0.
    pub fn epoch_from(&self, epoch: usize, first: usize, every: usize) -> SequenceEpoch {
        let order = self.config.order().epoch(&self.lengths, epoch, first, every);
        SequenceEpoch { loader: self.clone(), order }
    }

    fn batch(&self, indices: &[usize]) -> Result<SequenceBatch> {
        let mut sequences: Vec<&[u16]> =
            indices.iter().filter_map(|&i| self.set.sequence(i)).collect();
        sequences.extend(indices.iter().filter_map(|&i| Some(self.set.pair(i)?.1)));
        let width = indices.iter().map(|&i| self.lengths[i]).max().unwrap_or(0);
        let shape = (sequences.len(), width);
        let size = sequences.len() * width;
        let (mut ids, mut positions, mut mask) = (vec![0; size], vec![0; size], vec![0u8; size]);
        for (row, sequence) in sequences.into_iter().enumerate() {
            for (at, (position, id)) in (row * width..).zip(kept(sequence, self.config.leave_out)) {
                (ids[at], positions[at], mask[at]) = (u32::from(id), position, 1);
            }
        }
        let labels: Vec<u32> = indices.iter().filter_map(|&i| self.set.label(i)).collect();
        Ok(SequenceBatch {
            ids: Tensor::from_vec(ids, shape, &self.device)?,
            positions: Tensor::from_vec(positions, shape, &self.device)?,
            mask: Tensor::from_vec(mask, shape, &self.device)?,
            labels: Tensor::from_vec(labels, indices.len(), &Device::Cpu)?,
            indices: indices.to_vec(),
        })
    }
}

/// The tokens of a sequence that are kept, with their positions.
fn kept(sequence: &[u16], leave_out: Option<u16>) -> impl Iterator<Item = (u32, u16)> {
    let alone = sequence.iter().all(|&id| Some(id) == leave_out);
    let tokens = (0..).zip(sequence.iter().copied());
    tokens.filter(move |&(position, id)| Some(id) != leave_out || (alone && position == 0))
}

/// The batches of one epoch of a [`SequenceLoader`].
#[derive(Debug)]
pub struct SequenceEpoch {
    loader: SequenceLoader,
    order: OrderedEpoch,
}

impl Iterator for SequenceEpoch {
    type Item = Result<SequenceBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.loader.batch(self.order.next_batch()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.order.size_hint()
    }
}
