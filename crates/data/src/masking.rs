//! [`MaskedWindows`]: packed windows in which a model shall tell the tokens that were hidden.

use candle_core::{Device, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::stream::{Purpose, stream};
use crate::{Error, Result, Tokenizer, Windows};

/// Which tokens of a window are hidden.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Masking {
    /// Share of the T tokens of each window; the number of them is rounded to M.
    pub share: f64,
    /// Seed of places and random tokens.
    pub seed: u64,
}

impl Masking {
    /// The share of BERT, 0.15.
    pub fn new(seed: u64) -> Self {
        Self { share: 0.15, seed }
    }
}

/// A batch of windows with hidden tokens.
#[derive(Debug, Clone)]
pub struct MaskedBatch {
    /// Token ids with the hidden ones replaced, (B, T) in u32.
    pub inputs: Tensor,
    /// Places of the hidden tokens in their window, rising, (B, M) in u32 on the CPU like `targets`.
    pub positions: Tensor,
    /// What stood there, (B, M) in u32 on the CPU, where a loss reads it without waiting for a GPU.
    pub targets: Tensor,
}

/// [`Windows`] of a masked language model: the same number M of tokens of each window is hidden.
///
/// J. Devlin et al., *BERT*, NAACL 2019, section 3.1: of the tokens that are hidden, 80 % become `[MASK]`,
/// 10 % a random token, 10 % stay. M is fixed, as in J. Geiping, T. Goldstein, *Cramming*, ICML 2023, so
/// that the places are a tensor. Two differences from BERT: special tokens are hidden only where a window
/// has fewer than M others, and never put in at random. Places and tokens of a window are a function of
/// (seed, epoch, place of the window in the epoch) alone, so a run can go on at any batch.
///
/// ```
/// use std::sync::Arc;
/// use candle_core::Device;
/// use conditioned_data::{MaskedWindows, Masking, Sequence, Tokenizer, Tokens, Windows, stories};
///
/// let tokenizer = Tokenizer::train_wordpiece(stories(0, 200), 600)?;
/// let tokens = Arc::new(Tokens::encode(stories(0, 20), &tokenizer)?);
/// let windows = Windows::new(Sequence::whole(tokens), 64, 8, 0)?;
/// let masked = MaskedWindows::new(windows, Masking::new(0), &tokenizer)?;
/// let batch = masked.batch(0, 0, &Device::Cpu)?;
/// assert_eq!((batch.inputs.dims(), batch.positions.dims()), (&[8, 64][..], &[8, 10][..]));
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MaskedWindows {
    windows: Windows,
    seed: u64,
    /// M.
    count: usize,
    mask: u32,
    special: Vec<u32>,
    /// Ids of all other tokens.
    words: Vec<u32>,
}

impl MaskedWindows {
    /// Windows of tokens that `tokenizer` made.
    ///
    /// # Errors
    /// When the tokenizer has no `[MASK]` or another number of tokens than theirs, or when no token or all of a
    /// window would be hidden.
    pub fn new(windows: Windows, masking: Masking, tokenizer: &Tokenizer) -> Result<Self> {
        let mask = tokenizer.need("mask_token")?;
        let size = windows.sequence().tokens().vocab_size();
        if size != tokenizer.vocab_size() {
            let expected = format!("expected the {size} of the tokens; take their tokenizer");
            return Err(Error::config("vocab_size", tokenizer.vocab_size(), expected));
        }
        let length = windows.length();
        let count = (masking.share * length as f64).round();
        // A share that is no number is refused too.
        if !(1.0..length as f64).contains(&count) {
            let expected = format!("expected a share of 1 to {} of {length} tokens", length - 1);
            return Err(Error::config("share", masking.share, expected));
        }
        let special = tokenizer.special();
        let words = (0..size as u32).filter(|id| special.binary_search(id).is_err()).collect();
        Ok(Self { windows, seed: masking.seed, count: count as usize, mask, special, words })
    }

    /// The windows before tokens are hidden.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Hidden tokens of a window, M.
    pub fn masked(&self) -> usize {
        self.count
    }

    /// Batch `index` of training epoch `epoch`: [`Windows::batch`] with M tokens of each row hidden.
    ///
    /// # Errors
    /// As [`Windows::batch`].
    pub fn batch(&self, epoch: usize, index: usize, device: &Device) -> Result<MaskedBatch> {
        let inputs = self.windows.batch(epoch, index, &Device::Cpu)?.inputs;
        self.hide(&inputs, epoch, index, Purpose::Mask, device)
    }

    /// Batch `index` of an evaluation: [`Windows::evaluation`] with tokens hidden, each time the same.
    ///
    /// # Errors
    /// As [`Windows::evaluation`].
    pub fn evaluation(&self, index: usize, device: &Device) -> Result<MaskedBatch> {
        let inputs = self.windows.evaluation(index, &Device::Cpu)?.inputs;
        self.hide(&inputs, 0, index, Purpose::EvaluationMask, device)
    }

    fn hide(
        &self,
        inputs: &Tensor,
        epoch: usize,
        index: usize,
        purpose: Purpose,
        device: &Device,
    ) -> Result<MaskedBatch> {
        let (rows, length) = inputs.dims2()?;
        let mut inputs = inputs.flatten_all()?.to_vec1::<u32>()?;
        let (mut positions, mut targets) = (Vec::new(), Vec::new());
        let first = index * self.windows.batch_size();
        for (i, row) in inputs.chunks_exact_mut(length).enumerate() {
            let mut rng = stream(self.seed, epoch, first + i, purpose);
            for at in self.choose(row, &mut rng) {
                positions.push(at as u32);
                targets.push(row[at]);
                row[at] = match rng.random_range(0..10u32) {
                    0..8 => self.mask,
                    8 => pick(&self.words, &mut rng).unwrap_or(self.mask),
                    _ => row[at],
                };
            }
        }
        let shape = (rows, self.count);
        Ok(MaskedBatch {
            inputs: Tensor::from_vec(inputs, (rows, length), device)?,
            positions: Tensor::from_vec(positions, shape, &Device::Cpu)?,
            targets: Tensor::from_vec(targets, shape, &Device::Cpu)?,
        })
    }

    /// M places, rising: drawn from the words, and from special tokens where there are too few.
    fn choose(&self, row: &[u32], rng: &mut ChaCha8Rng) -> Vec<usize> {
        let is_word = |&i: &usize| self.special.binary_search(&row[i]).is_err();
        let (mut words, mut special): (Vec<usize>, Vec<usize>) = (0..row.len()).partition(is_word);
        let mut chosen = draw(&mut words, self.count, rng);
        let missing = self.count - chosen.len();
        chosen.extend(draw(&mut special, missing, rng));
        chosen.sort_unstable();
        chosen
    }
}

/// The first steps of a shuffle: `count` of the places, or all.
fn draw(places: &mut [usize], count: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let count = count.min(places.len());
    for i in 0..count {
        let other = rng.random_range(i as u32..places.len() as u32) as usize;
        places.swap(i, other);
    }
    places[..count].to_vec()
}

fn pick(words: &[u32], rng: &mut ChaCha8Rng) -> Option<u32> {
    if words.is_empty() {
        return None;
    }
    words.get(rng.random_range(0..words.len() as u32) as usize).copied()
}
