//! [`TextLoader`]: seeded batches of labelled texts, as long as their longest text.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::encoding::Encoded;
use crate::order::{Order, OrderedEpoch};
use crate::{Labels, Result, Texts, Tokenizer};

/// How a [`TextLoader`] makes batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextLoaderConfig {
    /// Texts in a batch, B.
    pub batch_size: usize,
    /// Tokens of the longest text, special ones included; longer texts are cut.
    pub max_length: usize,
    /// Seed of the order.
    pub seed: u64,
    /// Whether each epoch has its own random order; otherwise that of the set.
    pub shuffle: bool,
    /// Whether texts of about one length are put together, so that little is filled up.
    pub buckets: bool,
}

impl TextLoaderConfig {
    /// For training: shuffled, every text once an epoch, with buckets.
    pub fn training(batch_size: usize, max_length: usize, seed: u64) -> Self {
        Self { batch_size, max_length, seed, shuffle: true, buckets: true }
    }

    /// For evaluation: every text once, sorted by length.
    pub fn evaluation(batch_size: usize, max_length: usize) -> Self {
        Self { shuffle: false, ..Self::training(batch_size, max_length, 0) }
    }

    fn order(self) -> Order {
        let Self { batch_size, seed, shuffle, buckets, .. } = self;
        Order { batch_size, seed, shuffle, buckets }
    }
}

/// One batch of labelled texts.
#[derive(Debug, Clone)]
pub struct TextBatch {
    /// Token ids, (B, N) in u32, N those of the longest text; `[PAD]` after the shorter ones.
    pub ids: Tensor,
    /// 0 for the first text and 1 for the second, (B, N) in u32.
    pub types: Tensor,
    /// 1 for tokens of the text and 0 for what was filled up, (B, N) in u8.
    pub mask: Tensor,
    /// Classes, (B) in u32, or scores, (B) in f32, on the CPU, where a loss reads them without waiting for a GPU.
    pub labels: Tensor,
    /// Places of the texts in the set, B of them.
    pub indices: Vec<usize>,
}

/// Makes the batches of any epoch, the same for the same seed.
///
/// The order of an epoch comes from (seed, epoch). With buckets, the texts of 50 batches of that order
/// are sorted by length and cut into batches, and the batches of the epoch are shuffled. Without
/// shuffling all texts are sorted. Where all texts have one length there is nothing to sort.
///
/// ```
/// use std::sync::Arc;
/// use candle_core::Device;
/// use conditioned_data::{TextLoader, TextLoaderConfig, Tokenizer, entailments, premises};
///
/// let tokenizer = Tokenizer::train_wordpiece(premises(0, 0..500), 200)?;
/// let train = Arc::new(entailments(0, 0..100)?);
/// let config = TextLoaderConfig::training(32, 48, 1);
/// let loader = TextLoader::new(train, &tokenizer, config, &Device::Cpu)?;
/// assert_eq!((loader.batches(), loader.truncated()), (4, 0));
/// for batch in loader.epoch(0) {
///     let batch = batch?;
///     assert_eq!(batch.ids.dims(), batch.mask.dims());
///     assert_eq!(batch.labels.dims(), [batch.indices.len()]);
/// }
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TextLoader {
    texts: Arc<Texts>,
    encoded: Arc<Vec<Encoded>>,
    /// Tokens of each text.
    lengths: Arc<[usize]>,
    config: TextLoaderConfig,
    pad: u32,
    device: Device,
}

impl TextLoader {
    /// Encodes the texts, on all threads; batches will reach `device`.
    ///
    /// # Errors
    /// When B is 0, when the tokenizer has no `[PAD]`, or as [`Tokenizer::encode_pair`].
    pub fn new(
        texts: Arc<Texts>,
        tokenizer: &Tokenizer,
        config: TextLoaderConfig,
        device: &Device,
    ) -> Result<Self> {
        config.order().check()?;
        let pad = tokenizer.need("pad_token")?;
        let rows = texts.rows().par_iter();
        let encoded = rows
            .map(|row| tokenizer.encode_pair(&row.text, row.second.as_deref(), config.max_length))
            .collect::<Result<Vec<_>>>()?;
        let lengths = encoded.iter().map(|encoded| encoded.ids.len()).collect();
        let (encoded, device) = (Arc::new(encoded), device.clone());
        Ok(Self { texts, encoded, lengths, config, pad, device })
    }

    /// The texts that batches are made of.
    pub fn texts(&self) -> &Texts {
        &self.texts
    }

    /// The largest id of a token in any batch.
    pub fn largest_id(&self) -> u32 {
        let ids = self.encoded.iter().flat_map(|encoded| &encoded.ids);
        ids.copied().fold(self.pad, u32::max)
    }

    /// Number of texts that were cut to the longest length.
    pub fn truncated(&self) -> usize {
        self.encoded.iter().filter(|encoded| encoded.truncated).count()
    }

    /// Batches in an epoch; one of them may have fewer than B texts.
    pub fn batches(&self) -> usize {
        self.config.order().batches(self.texts.len())
    }

    /// The batches of epoch `epoch`.
    pub fn epoch(&self, epoch: usize) -> TextEpoch {
        self.epoch_from(epoch, 0, 1)
    }

    /// Batches `first`, `first + every`, ... of epoch `epoch`: those left of an interrupted run, or those of one
    /// among several processes.
    ///
    /// They are the same that [`epoch`](Self::epoch) gives at their places; none past the end.
    ///
    /// # Panics
    /// When `every` is 0.
    pub fn epoch_from(&self, epoch: usize, first: usize, every: usize) -> TextEpoch {
        let order = self.config.order().epoch(&self.lengths, epoch, first, every);
        TextEpoch { loader: self.clone(), order }
    }

    fn batch(&self, indices: &[usize]) -> Result<TextBatch> {
        let encoded: Vec<&Encoded> = indices.iter().map(|&i| &self.encoded[i]).collect();
        let width = encoded.iter().map(|encoded| encoded.ids.len()).max().unwrap_or(0);
        let shape = (indices.len(), width);
        let fill = |part: fn(&Encoded) -> &[u32], value: u32| {
            let mut flat = Vec::with_capacity(shape.0 * shape.1);
            for (i, encoded) in (1..).zip(&encoded) {
                flat.extend_from_slice(part(encoded));
                flat.resize(i * width, value);
            }
            flat
        };
        let ids = Tensor::from_vec(fill(|e| &e.ids, self.pad), shape, &self.device)?;
        let types = Tensor::from_vec(fill(|e| &e.types, 0), shape, &self.device)?;
        let mut mask = vec![0u8; shape.0 * shape.1];
        for (row, encoded) in mask.chunks_exact_mut(width).zip(&encoded) {
            row[..encoded.ids.len()].fill(1);
        }
        let mask = Tensor::from_vec(mask, shape, &self.device)?;
        let labels = indices.iter().map(|&i| self.texts.rows()[i].label);
        let labels = match self.texts.labels() {
            Labels::Classes(_) => {
                let classes = labels.map(|label| label as u32).collect();
                Tensor::from_vec(classes, indices.len(), &Device::Cpu)?
            }
            Labels::Score => Tensor::from_vec(labels.collect(), indices.len(), &Device::Cpu)?,
        };
        Ok(TextBatch { ids, types, mask, labels, indices: indices.to_vec() })
    }
}

/// The batches of one epoch of a [`TextLoader`].
#[derive(Debug)]
pub struct TextEpoch {
    loader: TextLoader,
    order: OrderedEpoch,
}

impl Iterator for TextEpoch {
    type Item = Result<TextBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.loader.batch(self.order.next_batch()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.order.size_hint()
    }
}
