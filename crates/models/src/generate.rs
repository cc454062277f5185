//! Text from a GPT-2, one token after the other.

use candle_core::{DType, Device, Result, Tensor};
use conditioned_nn::Mode;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::gpt2::Gpt2;

/// How the next token is drawn, and when to stop.
///
/// The filters act in the order of the fields, with the meaning that they have in transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely token, of equals the first.
    pub temperature: f64,
    /// Keeps the k largest logits, and those equal to the smallest of them.
    pub top_k: Option<usize>,
    /// Keeps the fewest most likely tokens whose probabilities add up to p, of equals the first.
    pub top_p: Option<f64>,
    /// Ids from here on are never drawn: rows without a token of a table that was padded, as 50,257 tokens
    /// to 50,304 rows.
    pub vocabulary: Option<usize>,
    /// The seed of all draws.
    pub seed: u64,
    /// New tokens at most; the end of the context may come before.
    pub max_new_tokens: usize,
    /// The tokens after any of which to stop, such as the end of a text.
    pub stop: Vec<u32>,
}

impl Default for Sampling {
    /// Draws from the model as it is, up to the end of the context.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: None,
            vocabulary: None,
            seed: 0,
            max_new_tokens: usize::MAX,
            stop: Vec::new(),
        }
    }
}

impl Sampling {
    /// The most likely token at every step.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks the range of every setting.
    ///
    /// # Errors
    /// Names the first that is out of range.
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            candle_core::bail!(
                "sampling: temperature {} must be finite and >= 0",
                self.temperature
            );
        }
        if self.vocabulary == Some(0) {
            candle_core::bail!(
                "sampling: a vocabulary of 0 leaves no token; take 1 or more, or none"
            );
        }
        if self.top_k == Some(0) {
            candle_core::bail!("sampling: top_k 0 keeps no token; take 1 or more, or none");
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            candle_core::bail!("sampling: top_p {p} must be above 0 and at most 1");
        }
        Ok(())
    }

    /// The probabilities that the next token is drawn with, for `logits` of every token.
    ///
    /// # Errors
    /// When a setting is out of range, there is no token, or a logit is NaN or infinite.
    pub fn probabilities(&self, logits: &[f64]) -> Result<Vec<f64>> {
        self.validate()?;
        if let Some(token) = logits.iter().position(|logit| !logit.is_finite()) {
            candle_core::bail!("sampling: the logit of token {token} is {}", logits[token]);
        }
        // Most likely first; the sort is stable, so equals stay in the order of their ids.
        let drawn = self.vocabulary.map_or(logits.len(), |size| size.min(logits.len()));
        let mut order: Vec<usize> = (0..drawn).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let Some(&best) = order.first() else {
            candle_core::bail!("sampling: no logits; the vocabulary is empty");
        };
        let mut probabilities = vec![0.0; logits.len()];
        if self.temperature == 0.0 {
            probabilities[best] = 1.0;
            return Ok(probabilities);
        }
        if let Some(k) = self.top_k.filter(|&k| k < order.len()) {
            let least = logits[order[k - 1]];
            order.truncate(order.partition_point(|&token| logits[token] >= least));
        }
        for &token in &order {
            probabilities[token] = ((logits[token] - logits[best]) / self.temperature).exp();
        }
        normalise(&mut probabilities);
        if let Some(p) = self.top_p.filter(|&p| p < 1.0) {
            let mut before = 0.0;
            for token in order {
                if before >= p {
                    probabilities[token] = 0.0;
                }
                before += probabilities[token];
            }
            normalise(&mut probabilities);
        }
        Ok(probabilities)
    }
}

fn normalise(weights: &mut [f64]) {
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
}

/// The tokens with which `model` continues `prompt`, in evaluation; the stop token, where it comes,
/// is the last of them.
///
/// Prompt and continuation together are no longer than the context: generation stops there. The same
/// seed gives the same tokens.
///
/// # Errors
/// When the prompt is empty, longer than the context or not of the vocabulary, a setting is out of
/// range, or as [`Gpt2::next_logits`].
pub fn generate(model: &Gpt2, prompt: &[u32], sampling: &Sampling) -> Result<Vec<u32>> {
    sampling.validate()?;
    if prompt.is_empty() {
        candle_core::bail!(
            "generate: the prompt is empty; give a token, such as the end of a text"
        );
    }
    let context = model.context();
    let Some(room) = context.checked_sub(prompt.len()) else {
        candle_core::bail!(
            "generate: the prompt of {} tokens is longer than the context of {context}; keep its end",
            prompt.len()
        );
    };
    let device = model.head().device();
    let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
    let mut cache = model.cache();
    let mut new = Vec::new();
    let mut next = prompt.to_vec();
    while new.len() < room.min(sampling.max_new_tokens) {
        let logits = if model.is_causal() {
            let ids = Tensor::new(next, device)?.unsqueeze(0)?;
            model.next_logits(&ids, &mut cache)?.squeeze(0)?
        } else {
            // Each new token changes those before: the literal method starts anew with every one.
            let ids = Tensor::new([prompt, &new[..]].concat(), device)?.unsqueeze(0)?;
            let logits = model.logits(&ids, Mode::Eval)?.squeeze(0)?;
            logits.get(logits.dim(0)? - 1)?
        };
        let logits = logits.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()?;
        let token = draw(&sampling.probabilities(&logits)?, rng.random());
        new.push(token);
        if sampling.stop.contains(&token) {
            break;
        }
        next = vec![token];
    }
    Ok(new)
}

/// The token at which the probabilities, added up, exceed `u`, which is in [0, 1).
fn draw(probabilities: &[f64], u: f64) -> u32 {
    let mut sum = 0.0;
    let mut last = 0;
    for (token, &probability) in (0..).zip(probabilities) {
        if probability > 0.0 {
            sum += probability;
            last = token;
            if sum > u {
                break;
            }
        }
    }
    // Rounding may leave the whole sum a little below u: then it is the last possible token.
    last
}
