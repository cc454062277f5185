//! [`SequenceSet`]: labelled sequences of token ids in memory, or pairs of them.

use crate::{Error, Result};

/// Most ids that 16 bits tell apart.
const MOST: usize = 1 << 16;

/// Labelled sequences of tokens of different lengths, or pairs of them.
///
/// Ids run from 1 to V - 1, V the vocabulary: id 0 stands for what fills up a batch and is never a token.
/// Labels run from 0 to K - 1, K the number of classes.
///
/// ```
/// use conditioned_data::SequenceSet;
///
/// // Sequences of 3 and of 1 token.
/// let set = SequenceSet::new("demo", 10, 2, vec![4, 9, 1, 7], vec![3, 4], vec![0, 1])?;
/// assert_eq!((set.len(), set.longest(), set.pairs()), (2, 3, false));
/// assert_eq!((set.sequence(0), set.label(1)), (Some(&[4, 9, 1][..]), Some(1)));
///
/// // The same as one pair.
/// let pair = SequenceSet::of_pairs("demo", 10, 2, vec![4, 9, 1, 7], vec![3, 4], vec![1])?;
/// assert_eq!(pair.pair(0), Some((&[4, 9, 1][..], &[7][..])));
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceSet {
    name: String,
    vocabulary: usize,
    classes: usize,
    pairs: bool,
    flat: Flat,
}

/// Sequences one after the other, with where each of them ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Flat {
    pub(crate) tokens: Vec<u16>,
    /// Of each sequence; of a pair there are two.
    pub(crate) ends: Vec<usize>,
    /// One a row: a sequence or a pair.
    pub(crate) labels: Vec<u32>,
}

impl Flat {
    pub(crate) fn push(&mut self, tokens: impl IntoIterator<Item = u16>) {
        self.tokens.extend(tokens);
        self.ends.push(self.tokens.len());
    }

    pub(crate) fn append(&mut self, other: &Self) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(&other.tokens);
        self.ends.extend(other.ends.iter().map(|end| start + end));
        self.labels.extend_from_slice(&other.labels);
    }

    fn sequence(&self, i: usize) -> Option<&[u16]> {
        let start = if i == 0 { 0 } else { *self.ends.get(i - 1)? };
        self.tokens.get(start..*self.ends.get(i)?)
    }
}

impl SequenceSet {
    /// Sequences of `tokens`, of which sequence i goes up to `ends[i]`, each with one of `labels`.
    ///
    /// # Errors
    /// When the vocabulary does not hold 2 to 65,536 ids, the counts of sequences and labels differ, a
    /// sequence is empty, the last does not end with the tokens, an id is 0 or not below the vocabulary, or a
    /// label is not below `classes`: names the set and the place.
    pub fn new(
        name: impl Into<String>,
        vocabulary: usize,
        classes: usize,
        tokens: Vec<u16>,
        ends: Vec<usize>,
        labels: Vec<u32>,
    ) -> Result<Self> {
        Self::of_flat(name, [vocabulary, classes], false, Flat { tokens, ends, labels })
    }

    /// Pairs of sequences: sequences 2i and 2i + 1 are pair i, which has label i.
    ///
    /// # Errors
    /// As [`SequenceSet::new`].
    pub fn of_pairs(
        name: impl Into<String>,
        vocabulary: usize,
        classes: usize,
        tokens: Vec<u16>,
        ends: Vec<usize>,
        labels: Vec<u32>,
    ) -> Result<Self> {
        Self::of_flat(name, [vocabulary, classes], true, Flat { tokens, ends, labels })
    }

    /// As [`SequenceSet::new`], with `[vocabulary, classes]`.
    pub(crate) fn of_flat(
        name: impl Into<String>,
        [vocabulary, classes]: [usize; 2],
        pairs: bool,
        flat: Flat,
    ) -> Result<Self> {
        let set = Self { name: name.into(), vocabulary, classes, pairs, flat };
        match set.problem() {
            Some(problem) => Err(Error::Sequences { name: set.name, problem }),
            None => Ok(set),
        }
    }

    fn problem(&self) -> Option<String> {
        let Self { vocabulary, classes, flat: Flat { tokens, ends, labels }, .. } = self;
        if !(2..=MOST).contains(vocabulary) {
            return Some(format!("a vocabulary of {vocabulary} ids, expected 2 to {MOST}"));
        }
        let (kind, each) = if self.pairs { ("pair", 2) } else { ("sequence", 1) };
        if labels.len().checked_mul(each) != Some(ends.len()) {
            let (sequences, labels) = (ends.len(), labels.len());
            let problem =
                format!("{sequences} sequences and {labels} labels; give one label a {kind}");
            return Some(problem);
        }
        let mut last = 0;
        for (i, &end) in ends.iter().enumerate() {
            if end <= last {
                let problem = format!("{} is empty; leave it out, or give it a token", self.at(i));
                return Some(problem);
            }
            last = end;
        }
        if last != tokens.len() {
            return Some(format!("the last sequence ends at token {last} of {}", tokens.len()));
        }
        let bad = |&id: &u16| id == 0 || usize::from(id) >= *vocabulary;
        if let Some(place) = tokens.iter().position(bad) {
            let i = ends.partition_point(|&end| end <= place);
            let start = if i == 0 { 0 } else { ends[i - 1] };
            let (id, at, last) = (tokens[place], self.at(i), vocabulary - 1);
            let place = place - start;
            return Some(format!("id {id} at token {place} of {at}; tokens have ids 1 to {last}"));
        }
        let bad = labels.iter().position(|&label| label as usize >= *classes)?;
        Some(format!("label {} of {kind} {bad} is out of range for {classes} classes", labels[bad]))
    }

    /// Which sequence that is.
    fn at(&self, i: usize) -> String {
        match (self.pairs, i % 2) {
            (false, _) => format!("sequence {i}"),
            (true, 0) => format!("the first sequence of pair {}", i / 2),
            (true, _) => format!("the second sequence of pair {}", i / 2),
        }
    }

    /// Name of the data, the same for every subset of them.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of ids, V; that of padding, 0, is one of them.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Number of classes, K.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Whether each row is a pair of sequences.
    pub fn pairs(&self) -> bool {
        self.pairs
    }

    /// Number of rows: sequences, or pairs of them.
    pub fn len(&self) -> usize {
        self.flat.labels.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.flat.labels.is_empty()
    }

    /// Tokens of the longest sequence; 0 where there is none.
    pub fn longest(&self) -> usize {
        let starts = std::iter::once(&0).chain(&self.flat.ends);
        self.flat.ends.iter().zip(starts).map(|(end, start)| end - start).max().unwrap_or(0)
    }

    /// The sequence of row `i`, the first of a pair, or `None` past the end.
    pub fn sequence(&self, i: usize) -> Option<&[u16]> {
        self.flat.sequence(if self.pairs { i.checked_mul(2)? } else { i })
    }

    /// The two sequences of row `i`, or `None` past the end and where there are no pairs.
    pub fn pair(&self, i: usize) -> Option<(&[u16], &[u16])> {
        let second = i.checked_mul(2)?.checked_add(1).filter(|_| self.pairs)?;
        Some((self.flat.sequence(second - 1)?, self.flat.sequence(second)?))
    }

    /// The label of row `i`, or `None` past the end.
    pub fn label(&self, i: usize) -> Option<u32> {
        self.flat.labels.get(i).copied()
    }

    /// The labels of all rows.
    pub fn labels(&self) -> &[u32] {
        &self.flat.labels
    }

    /// The rows at `indices`, in that order; an index may come more than once.
    ///
    /// # Errors
    /// When an index is past the end.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        let mut flat = Flat::default();
        for &i in indices {
            let (Some(first), Some(label)) = (self.sequence(i), self.label(i)) else {
                let problem = format!("index {i} is past the end of {} rows", self.len());
                return Err(Error::Sequences { name: self.name.clone(), problem });
            };
            flat.push(first.iter().copied());
            if let Some((_, second)) = self.pair(i) {
                flat.push(second.iter().copied());
            }
            flat.labels.push(label);
        }
        Ok(Self { name: self.name.clone(), flat, ..*self })
    }

    /// The first `n` rows.
    ///
    /// # Errors
    /// When there are fewer than `n`.
    pub fn take(&self, n: usize) -> Result<Self> {
        self.subset(&(0..n).collect::<Vec<_>>())
    }

    /// BLAKE3 of sizes, tokens and labels as 64 hexadecimal digits; the name plays no part.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for size in [self.len(), self.vocabulary, self.classes, usize::from(self.pairs)] {
            hasher.update(&(size as u64).to_le_bytes());
        }
        self.flat.bytes().iter().for_each(|bytes| {
            hasher.update(bytes);
        });
        hasher.finalize().to_hex().to_string()
    }

    pub(crate) fn flat(&self) -> &Flat {
        &self.flat
    }
}

impl Flat {
    /// Tokens, ends and labels, little-endian.
    pub(crate) fn bytes(&self) -> [Vec<u8>; 3] {
        [
            self.tokens.iter().flat_map(|id| id.to_le_bytes()).collect(),
            self.ends.iter().flat_map(|&end| (end as u64).to_le_bytes()).collect(),
            self.labels.iter().flat_map(|label| label.to_le_bytes()).collect(),
        ]
    }
}
