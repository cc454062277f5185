//! [`Ngram`]: the n-gram model that a transformer has to beat.
//!
//! Interpolated modified Kneser-Ney. For a history h of k - 1 tokens and h' without its oldest,
//!
//! ```text
//! p(w | h) = max(a(hw) - D(a(hw)), 0) / a(h) + (D1 N1(h) + D2 N2(h) + D3 N3(h)) / a(h) * p(w | h')
//! ```
//!
//! where a(hw) is the count for the highest order and, below it, the number of different tokens seen
//! before hw (the count where the start of a document stands there, as nothing comes before it), a(h)
//! its sum over w, and Ni(h) how many w have a(hw) = i (3: or more); the unigrams are interpolated with
//! 1 / V. For each order, with n_i its number of k-grams of a = i, Y = n1 / (n1 + 2 n2) and
//! D_i = i - (i + 1) Y n_(i+1) / n_i. S. Chen, J. Goodman, *An Empirical Study of Smoothing Techniques
//! for Language Modeling*, 1998, section 3; starts of documents as in K. Heafield's KenLM.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::{Error, Result};

/// Discounts where the counts of counts cannot give them, as KenLM's fallback.
const FALLBACK: [f64; 3] = [0.5, 1.0, 1.5];

/// Cost of documents under a model.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Score {
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Sum of - ln p over them.
    pub nats: f64,
}

impl Score {
    /// Mean of - ln p.
    pub fn nats_per_token(&self) -> f64 {
        self.nats / self.tokens as f64
    }

    /// Bits for each of the `bytes` bytes that the tokens stand for.
    pub fn bits_per_byte(&self, bytes: usize) -> f64 {
        self.nats / std::f64::consts::LN_2 / bytes as f64
    }
}

/// An interpolated modified Kneser-Ney model of n-grams over token ids.
///
/// ```
/// use conditioned_data::Ngram;
///
/// let documents = [vec![0, 1, 2], vec![0, 1, 3]];
/// let model = Ngram::train(5, 4, documents.iter().map(|d| Ok(d.clone())))?;
/// let score = model.score([[0, 1, 2]])?;
/// assert!(score.nats_per_token() < 4f64.ln());
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Ngram {
    trie: Trie,
    vocab_size: usize,
    /// Sum and numbers of a = 1, 2, 3 or more over the children of each node.
    nodes: Vec<Children>,
    /// Discounts of each order, from unigrams up.
    discounts: Vec<[f64; 3]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Children {
    sum: u64,
    numbers: [u32; 3],
}

impl Ngram {
    /// Counts documents, in a vocabulary of `vocab_size` (V) ids; each starts without a history.
    ///
    /// # Errors
    /// When the order is not 1 to 32, a document is an error, a token is not below V, or there is no token.
    pub fn train<D: AsRef<[u32]>>(
        order: usize,
        vocab_size: usize,
        documents: impl IntoIterator<Item = Result<D>>,
    ) -> Result<Self> {
        if !(1..=32).contains(&order) {
            return Err(Error::config("order", order, "expected 1 to 32"));
        }
        let mut trie = Trie::new(order, vocab_size);
        for document in documents {
            trie.add(document?.as_ref())?;
        }
        if trie.counts.len() == 2 {
            return Err(Error::config("documents", "none", "expected at least one token"));
        }
        let mut nodes = vec![Children::default(); trie.counts.len()];
        let mut numbers = vec![[0u64; 4]; order];
        for (&key, &child) in &trie.children {
            let (node, a) = ((key >> 32) as usize, trie.counts[child as usize]);
            if a == 0 {
                continue;
            }
            nodes[node].sum += u64::from(a);
            nodes[node].numbers[(a as usize).min(3) - 1] += 1;
            if a <= 4 {
                numbers[usize::from(trie.orders[child as usize]) - 1][a as usize - 1] += 1;
            }
        }
        let discounts = numbers.into_iter().map(discounts).collect();
        Ok(Self { trie, vocab_size, nodes, discounts })
    }

    /// Number n: a token is predicted from at most n - 1 before it.
    pub fn order(&self) -> usize {
        self.trie.order
    }

    /// p(token | history) for each token of a document, in order.
    ///
    /// # Errors
    /// When a token is not below V.
    pub fn probabilities(&self, document: &[u32]) -> Result<Vec<f64>> {
        let mut history = self.trie.start();
        let mut out = Vec::with_capacity(document.len());
        for &token in document {
            check(token, self.vocab_size)?;
            out.push(self.probability(&history, token));
            self.trie.advance(&mut history, token);
        }
        Ok(out)
    }

    /// The law of the token after a document, V numbers that sum to 1.
    ///
    /// # Errors
    /// When a token is not below V.
    pub fn next(&self, document: &[u32]) -> Result<Vec<f64>> {
        let mut history = self.trie.start();
        for &token in document {
            check(token, self.vocab_size)?;
            self.trie.advance(&mut history, token);
        }
        Ok((0..self.vocab_size as u32).map(|token| self.probability(&history, token)).collect())
    }

    /// The cost of documents.
    ///
    /// # Errors
    /// When a token is not below V.
    pub fn score<D: AsRef<[u32]>>(&self, documents: impl IntoIterator<Item = D>) -> Result<Score> {
        let mut score = Score::default();
        for document in documents {
            let probabilities = self.probabilities(document.as_ref())?;
            score.tokens += probabilities.len();
            score.nats -= probabilities.into_iter().map(f64::ln).sum::<f64>();
        }
        Ok(score)
    }

    /// From the empty history up to the longest that was seen.
    fn probability(&self, history: &[u32], token: u32) -> f64 {
        let mut p = 1.0 / self.vocab_size as f64;
        for (&node, discounts) in history.iter().zip(&self.discounts) {
            let Children { sum, numbers } = self.nodes[node as usize];
            if sum == 0 {
                continue;
            }
            let a =
                self.trie.child(node, token).map_or(0, |child| self.trie.counts[child as usize]);
            let discount = |a: u32| if a == 0 { 0.0 } else { discounts[(a as usize).min(3) - 1] };
            let kept = f64::from(a) - discount(a);
            let spread: f64 = numbers.iter().zip(discounts).map(|(&n, d)| f64::from(n) * d).sum();
            p = (kept + spread * p) / sum as f64;
        }
        p
    }
}

fn check(token: u32, vocab_size: usize) -> Result<()> {
    if (token as usize) < vocab_size {
        return Ok(());
    }
    Err(Error::config("token", token, format!("expected less than the vocabulary, {vocab_size}")))
}

/// D1, D2, D3 of an order from its numbers of a = 1, 2, 3, 4.
fn discounts(n: [u64; 4]) -> [f64; 3] {
    let n = n.map(|n| n as f64);
    let y = n[0] / (n[0] + 2.0 * n[1]);
    let d: [f64; 3] =
        std::array::from_fn(|i| (i + 1) as f64 - (i + 2) as f64 * y * n[i + 1] / n[i]);
    let usable = d.iter().enumerate().all(|(i, d)| *d > 0.0 && *d <= (i + 1) as f64);
    if usable { d } else { FALLBACK }
}

/// The n-grams that were seen: node 0 is empty, node 1 the start of a document.
#[derive(Debug, Clone)]
struct Trie {
    order: usize,
    vocab_size: usize,
    /// Node and token, 32 bits each, to node.
    children: HashMap<u64, u32, BuildHasherDefault<Mix>>,
    /// a of each node.
    counts: Vec<u32>,
    orders: Vec<u8>,
}

impl Trie {
    fn new(order: usize, vocab_size: usize) -> Self {
        let children = HashMap::default();
        Self { order, vocab_size, children, counts: vec![0; 2], orders: vec![0, 1] }
    }

    /// Nodes of the histories of length 0, 1, ... at the start of a document.
    fn start(&self) -> Vec<u32> {
        vec![0, 1].into_iter().take(self.order).collect()
    }

    fn child(&self, node: u32, token: u32) -> Option<u32> {
        self.children.get(&(u64::from(node) << 32 | u64::from(token))).copied()
    }

    /// The histories after one more token; a history that was not seen ends the list.
    fn advance(&self, history: &mut Vec<u32>, token: u32) {
        let next = history.iter().map_while(|&node| self.child(node, token));
        let next: Vec<u32> = std::iter::once(0).chain(next).take(self.order).collect();
        *history = next;
    }

    fn add(&mut self, document: &[u32]) -> Result<()> {
        let mut history = self.start();
        for (i, &token) in document.iter().enumerate() {
            check(token, self.vocab_size)?;
            let mut next = vec![0];
            for (k, &node) in history.iter().enumerate() {
                let (child, new) = self.grow(node, token, k + 1)?;
                // The longest history that begins at the start of the document has nothing before it.
                let at_start = k == i + 1;
                if k + 1 == self.order || at_start {
                    self.counts[child as usize] += 1;
                }
                // One more token before the shorter n-gram.
                if new && k > 0 {
                    self.counts[next[k] as usize] += 1;
                }
                next.push(child);
            }
            next.truncate(self.order);
            history = next;
        }
        Ok(())
    }

    fn grow(&mut self, node: u32, token: u32, order: usize) -> Result<(u32, bool)> {
        if let Some(child) = self.child(node, token) {
            return Ok((child, false));
        }
        let child = u32::try_from(self.counts.len())
            .map_err(|_| Error::config("documents", "more", "expected fewer than 2^32 n-grams"))?;
        self.children.insert(u64::from(node) << 32 | u64::from(token), child);
        self.counts.push(0);
        self.orders.push(order.min(255) as u8);
        Ok((child, true))
    }
}

/// A hash of one u64: the keys are our own, no one can choose them to collide.
#[derive(Debug, Clone, Copy, Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(self.0 ^ u64::from(byte)));
    }

    fn write_u64(&mut self, x: u64) {
        let x = (x ^ (x >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = x ^ (x >> 29);
    }
}
