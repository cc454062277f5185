//! [`Windows`]: batches of packed windows for a language model, and fixed prefixes.

use candle_core::{Device, Tensor};
use rand::Rng;

use crate::permutation::Permutation;
use crate::stream::{Purpose, stream};
use crate::{Error, Result, Sequence};

/// Inputs and targets of a language model.
#[derive(Debug, Clone)]
pub struct WindowBatch {
    /// Token ids, (B, T) in u32.
    pub inputs: Tensor,
    /// The token after each of them, (B, T) in u32 on the CPU, where the loss reads them without waiting for a GPU.
    pub targets: Tensor,
}

/// Windows of T tokens over a [`Sequence`], B at a time.
///
/// In training, epoch e takes the sequence as a circle of n tokens, starts at a place drawn from
/// (seed, e), cuts n / T windows one after the other, and hands them out in an order drawn from
/// (seed, e): each token is a target once, but for the n mod T before the start. A batch is a
/// function of (sequence, T, B, seed, epoch, index) alone, so a run can go on at any batch.
///
/// ```
/// use std::sync::Arc;
/// use candle_core::Device;
/// use conditioned_data::{Sequence, Tokenizer, Tokens, Windows};
///
/// let text = "the cat sat on the mat";
/// let tokenizer = Tokenizer::characters([text])?;
/// let tokens = Tokens::encode([Ok(text.to_string())], &tokenizer)?;
/// let windows = Windows::new(Sequence::whole(Arc::new(tokens)), 5, 2, 0)?;
/// assert_eq!(windows.batches(), 2);
/// let batch = windows.batch(0, 1, &Device::Cpu)?;
/// assert_eq!(batch.inputs.dims(), [2, 5]);
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Windows {
    sequence: Sequence,
    length: usize,
    batch_size: usize,
    seed: u64,
}

impl Windows {
    /// Windows of `length` (T) tokens, `batch_size` (B) at a time.
    ///
    /// # Errors
    /// When T or B is 0, or the sequence is not longer than T.
    pub fn new(sequence: Sequence, length: usize, batch_size: usize, seed: u64) -> Result<Self> {
        if batch_size == 0 {
            return Err(Error::config("batch_size", 0, "expected at least 1"));
        }
        if length == 0 || length >= sequence.len() {
            let expected =
                format!("expected 1 or more, and less than the {} tokens", sequence.len());
            return Err(Error::config("length", length, expected));
        }
        Ok(Self { sequence, length, batch_size, seed })
    }

    /// What the windows are cut from.
    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// Tokens of a window, T.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Windows of a full batch, B.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Windows of a training epoch, n / T.
    pub fn windows(&self) -> usize {
        self.sequence.len() / self.length
    }

    /// Full batches of a training epoch; the windows beyond them wait for another epoch.
    pub fn batches(&self) -> usize {
        self.windows() / self.batch_size
    }

    /// Checks that an epoch has a batch, without which nothing can be trained.
    ///
    /// # Errors
    /// When the tokens do not fill one.
    pub fn fill_a_batch(&self) -> Result<()> {
        if self.batches() > 0 {
            return Ok(());
        }
        let expected = format!(
            "{} tokens do not fill a batch of {} windows of {}; give more text, or a smaller batch",
            self.sequence.len(),
            self.batch_size,
            self.length
        );
        Err(Error::config("batch_size", self.batch_size, expected))
    }

    /// Batch `index` of training epoch `epoch`, (B, T).
    ///
    /// # Errors
    /// When `index` is past the last batch, a shard is damaged, or the device fails.
    pub fn batch(&self, epoch: usize, index: usize, device: &Device) -> Result<WindowBatch> {
        self.fill_a_batch()?;
        if index >= self.batches() {
            let expected = format!("expected less than the {} batches", self.batches());
            return Err(Error::config("batch", index, expected));
        }
        let mut rng = stream(self.seed, epoch, 0, Purpose::Windows);
        let start = rng.random_range(0..self.sequence.len() as u64) as usize;
        let order = Permutation::new(self.windows(), &mut rng);
        let first = index * self.batch_size;
        let windows = (first..first + self.batch_size).map(|i| start + self.length * order.at(i));
        self.cut(windows, device)
    }

    /// Batches of an evaluation.
    pub fn evaluation_batches(&self) -> usize {
        ((self.sequence.len() - 1) / self.length).div_ceil(self.batch_size)
    }

    /// Batch `index` of an evaluation: the (n - 1) / T windows from the start on, in order, the last
    /// batch with those that are left.
    ///
    /// # Errors
    /// When `index` is past the last batch, a shard is damaged, or the device fails.
    pub fn evaluation(&self, index: usize, device: &Device) -> Result<WindowBatch> {
        if index >= self.evaluation_batches() {
            let expected = format!("expected less than the {} batches", self.evaluation_batches());
            return Err(Error::config("batch", index, expected));
        }
        let windows = (self.sequence.len() - 1) / self.length;
        let first = index * self.batch_size;
        let last = windows.min(first + self.batch_size);
        self.cut((first..last).map(|i| self.length * i), device)
    }

    fn cut(&self, starts: impl Iterator<Item = usize>, device: &Device) -> Result<WindowBatch> {
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for start in starts {
            let at = inputs.len();
            self.sequence.read(start..start + self.length, &mut inputs)?;
            targets.extend_from_slice(&inputs[at + 1..]);
            let last = start + self.length;
            self.sequence.read(last..last + 1, &mut targets)?;
        }
        let shape = (inputs.len() / self.length, self.length);
        let inputs = Tensor::from_vec(inputs, shape, device)?;
        let targets = Tensor::from_vec(targets, shape, &Device::Cpu)?;
        Ok(WindowBatch { inputs, targets })
    }
}

/// Prefixes of one length, each with the token that follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefixes {
    /// Tokens of each prefix, L.
    pub length: usize,
    /// Prefixes one after the other, L tokens each.
    pub tokens: Vec<u32>,
    /// The token after each prefix.
    pub next: Vec<u32>,
}

impl Prefixes {
    /// The prefixes, (count, L), and the tokens after them, (count), both in u32.
    ///
    /// # Errors
    /// When the device fails.
    pub fn tensors(&self, device: &Device) -> Result<(Tensor, Tensor)> {
        let count = self.next.len();
        let tokens = Tensor::from_slice(&self.tokens, (count, self.length), device)?;
        Ok((tokens, Tensor::from_slice(&self.next, count, device)?))
    }
}

/// Draws `count` prefixes, as many of each length, from different places of a sequence by `seed`.
///
/// # Errors
/// When there is no length or a length is 0, or the sequence has too few places for it.
pub fn prefixes(
    sequence: &Sequence,
    count: usize,
    lengths: &[usize],
    seed: u64,
) -> Result<Vec<Prefixes>> {
    if lengths.is_empty() {
        return Err(Error::config("lengths", "[]", "expected at least one"));
    }
    let draw = |(i, &length): (usize, &usize)| {
        // The first lengths take what does not divide.
        let count = count / lengths.len() + usize::from(i < count % lengths.len());
        let places = sequence.len().saturating_sub(length);
        if length == 0 || places < count {
            let expected =
                format!("expected at least 1, and {count} places in {} tokens", sequence.len());
            return Err(Error::config("length", length, expected));
        }
        let order = Permutation::new(places, &mut stream(seed, i, length, Purpose::Prefixes));
        let (mut tokens, mut next) =
            (Vec::with_capacity(count * length), Vec::with_capacity(count));
        for start in (0..count).map(|i| order.at(i)) {
            sequence.read(start..start + length, &mut tokens)?;
            sequence.read(start + length..start + length + 1, &mut next)?;
        }
        Ok(Prefixes { length, tokens, next })
    };
    lengths.iter().enumerate().map(draw).collect()
}
