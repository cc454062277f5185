//! Training, tuning and test documents of a corpus.

use std::ops::Range;
use std::sync::Arc;

use crate::shard::text_hash;
use crate::{Error, Result, Tokens};

/// What a document is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// To train on.
    Train,
    /// To choose settings on.
    Tune,
    /// For the reported number, read once, at the end.
    Test,
}

/// Assigns documents to parts by a hash of (`seed`, text).
///
/// Equal texts are in the same part, so a story that a corpus repeats cannot leak; and a document
/// stays in its part when others are added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts {
    /// Which of the assignments.
    pub seed: u64,
    /// Share of the documents to tune on, on average.
    pub tune: f64,
    /// Share of the documents to test on, on average.
    pub test: f64,
}

impl Parts {
    fn check(&self) -> Result<()> {
        for (field, share) in [("tune", self.tune), ("test", self.test)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::config(field, share, "expected a share between 0 and 1"));
            }
        }
        let sum = self.tune + self.test;
        if sum > 1.0 {
            return Err(Error::config("tune + test", sum, "expected at most 1"));
        }
        Ok(())
    }

    /// The part of a document.
    ///
    /// # Errors
    /// When a share is not between 0 and 1, or their sum exceeds 1.
    pub fn part(&self, text: &str) -> Result<Part> {
        self.check()?;
        Ok(self.of(text_hash(text)))
    }

    fn of(&self, text_hash: u64) -> Part {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(&text_hash.to_le_bytes());
        let mut draw = [0; 8];
        draw.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        // 53 bits, the precision of the shares.
        let draw = (u64::from_le_bytes(draw) >> 11) as f64 / (1u64 << 53) as f64;
        match draw {
            x if x < self.test => Part::Test,
            x if x < self.test + self.tune => Part::Tune,
            _ => Part::Train,
        }
    }
}

/// The documents of one part as one run of tokens, in the order of the corpus.
#[derive(Debug, Clone)]
pub struct Sequence {
    tokens: Arc<Tokens>,
    documents: Vec<usize>,
    /// Tokens before each document, and in all.
    starts: Vec<usize>,
}

impl Sequence {
    /// The documents of `part`.
    ///
    /// # Errors
    /// When a share is not between 0 and 1, their sum exceeds 1, or no document is in the part.
    pub fn new(tokens: Arc<Tokens>, parts: &Parts, part: Part) -> Result<Self> {
        parts.check()?;
        let all = 0..tokens.documents();
        let documents: Vec<usize> =
            all.filter(|&i| parts.of(tokens.text_hash(i)) == part).collect();
        if documents.is_empty() {
            let (value, n) = (format!("{part:?} of {parts:?}"), tokens.documents());
            let expected = format!("none of the {n} documents; give more, or a larger share");
            return Err(Error::config("part", value, expected));
        }
        Ok(Self::of(tokens, documents))
    }

    /// All documents.
    pub fn whole(tokens: Arc<Tokens>) -> Self {
        let documents = (0..tokens.documents()).collect();
        Self::of(tokens, documents)
    }

    fn of(tokens: Arc<Tokens>, documents: Vec<usize>) -> Self {
        let mut starts = Vec::with_capacity(documents.len() + 1);
        let mut sum = 0;
        starts.push(sum);
        for &document in &documents {
            sum += tokens.size(document);
            starts.push(sum);
        }
        Self { tokens, documents, starts }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Whether there is no token, which no way of making it allows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Indices of the documents in the corpus.
    pub fn documents(&self) -> &[usize] {
        &self.documents
    }

    /// The tokens that the documents come from.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Appends the tokens of a range, which starts anew at the end.
    ///
    /// # Errors
    /// When a token is beyond the vocabulary.
    pub(crate) fn read(&self, range: Range<usize>, out: &mut Vec<u32>) -> Result<()> {
        let (mut at, mut left) = (range.start % self.len(), range.len());
        let mut i = self.starts.partition_point(|&start| start <= at) - 1;
        while left > 0 {
            let (start, end) = (self.starts[i], self.starts[i + 1]);
            let take = left.min(end - at);
            self.tokens.read(self.documents[i], at - start..at - start + take, out)?;
            left -= take;
            at += take;
            i += 1;
            if i == self.documents.len() {
                (at, i) = (0, 0);
            }
        }
        Ok(())
    }
}
