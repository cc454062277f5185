//! [`ListOps`]: nested operations on lists of digits, and their values.
//!
//! A tree is drawn from the root, which has depth 1. Below the greatest depth a node is, with probability 1/4,
//! an operator with 2 to `max_args` arguments, each count as likely, and the operator is MIN, MAX, MED (the
//! median, the mean of the middle two cut to a whole number) or SM (the sum modulo 10), each as likely;
//! otherwise, and at the greatest depth, it is a digit, each as likely. Trees of other lengths than those asked
//! for are drawn again. The class is the value of the expression.
//!
//! Source: N. Nangia, S. Bowman, arXiv 1804.06028, with the lengths of the Long Range Arena (Y. Tay et al.,
//! ICLR 2021, arXiv 2011.04006).

mod expression;
#[cfg(test)]
mod shares;

use std::collections::HashSet;
use std::ops::Range;

use rand::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::sequence_set::Flat;
use crate::stream::{Purpose, stream};
use crate::{Error, Result, SequenceSet};
use expression::{CLOSE, DIGIT, OPERATORS};
pub(crate) use expression::{read, value};

/// Ids of ListOps, that of padding among them.
pub(crate) const VOCABULARY: usize = 1 + ListOps::TOKENS.len();

/// Values are digits.
pub(crate) const CLASSES: usize = 10;

/// Tokens that are drawn in search of one sequence, about a tenth of a second: of the published settings 3,000
/// or so are needed.
const WORK: usize = 20_000_000;

/// Further draws in place of a sequence that is there already.
const REDRAWS: usize = 1000;

/// Sequences that are drawn before they are put together.
const CHUNK: usize = 4096;

/// Most arguments: more than any sequence has room for.
const MOST_ARGS: usize = 1 << 16;

/// How trees of operations are drawn, and which lengths are kept.
///
/// ```
/// use conditioned_data::ListOps;
///
/// let set = ListOps::short().sequences(0, 0..50)?;
/// assert_eq!((set.len(), set.vocabulary(), set.classes()), (50, 16, 10));
/// let first = set.sequence(0).unwrap();
/// assert!(30 < first.len() && first.len() < 128);
/// assert_eq!(Some(ListOps::evaluate(first)?), set.label(0));
///
/// let tokens = ListOps::parse("[MAX 2 9 [MIN 4 7 ] 0 ]")?;
/// assert_eq!((tokens.len(), ListOps::evaluate(&tokens)?), (9, 9));
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListOps {
    /// The greatest depth; at it all nodes are digits.
    pub max_depth: usize,
    /// Most arguments of an operator.
    pub max_args: usize,
    /// Sequences have more tokens than this.
    pub min_length: usize,
    /// Sequences have fewer tokens than this.
    pub max_length: usize,
}

impl ListOps {
    /// What the tokens are written as: token i has id i + 1.
    pub const TOKENS: [&str; 15] =
        ["[MIN", "[MAX", "[MED", "[SM", "]", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

    /// The settings of the Long Range Arena: depth 10, 10 arguments, 501 to 1,999 tokens.
    pub fn published() -> Self {
        Self { max_depth: 10, max_args: 10, min_length: 500, max_length: 2000 }
    }

    /// Short sequences, for a run on a processor: depth 5, 5 arguments, 31 to 127 tokens.
    pub fn short() -> Self {
        Self { max_depth: 5, max_args: 5, min_length: 30, max_length: 128 }
    }

    /// Checks that some tree can be kept.
    ///
    /// # Errors
    /// When the depth is less than 2, when the arguments are not 2 to 65,536, or when no length is between the
    /// two, or none that a tree of that depth reaches.
    pub fn validate(&self) -> Result<()> {
        let Self { max_depth, max_args, min_length, max_length } = *self;
        if max_depth < 2 {
            let expected = "expected at least 2: a tree of depth 1 is a digit";
            return Err(Error::config("max_depth", max_depth, expected));
        }
        if !(2..=MOST_ARGS).contains(&max_args) {
            return Err(Error::config("max_args", max_args, format!("expected 2 to {MOST_ARGS}")));
        }
        if max_length.saturating_sub(min_length) < 2 {
            let expected =
                format!("expected at least min_length + 2, to leave a length above {min_length}");
            return Err(Error::config("max_length", max_length, expected));
        }
        let mut longest = 1usize;
        for _ in 1..max_depth {
            longest = longest.saturating_mul(max_args).saturating_add(2);
            if longest > min_length {
                return Ok(());
            }
        }
        let expected = format!(
            "a tree of depth {max_depth} and {max_args} arguments has {longest} tokens at most; make it less"
        );
        Err(Error::config("min_length", min_length, expected))
    }

    /// Sequence `index` of `seed`, a function of the settings and the two alone.
    ///
    /// # Errors
    /// When no tree can be kept, or so few that none is found.
    pub fn sequence(&self, seed: u64, index: usize) -> Result<Vec<u16>> {
        self.validate()?;
        self.draw(seed, index, 0)
    }

    /// Sequences `range` of `seed` with their values, all of them different, the same for any number of threads.
    ///
    /// They are those of [`ListOps::sequence`], but for one that an earlier index of the range has: it is drawn
    /// again.
    ///
    /// # Errors
    /// As [`ListOps::sequence`], or when there are not so many different ones.
    pub fn sequences(&self, seed: u64, range: Range<usize>) -> Result<SequenceSet> {
        self.unseen(seed, range, &mut Seen::default())
    }

    /// The tokens of an expression as its released form writes them: parentheses, which stand around the
    /// arguments one by one, are left out, and the end of a list is `]` or `X`.
    ///
    /// # Errors
    /// Names the token that is unknown, closes or leaves open a bracket without the other, or closes one without
    /// arguments.
    pub fn parse(text: &str) -> Result<Vec<u16>> {
        let tokens = read(text).and_then(|tokens| value(&tokens).map(|_| tokens));
        tokens.map_err(problem)
    }

    /// The value of an expression, 0 to 9.
    ///
    /// # Errors
    /// As [`ListOps::parse`].
    pub fn evaluate(tokens: &[u16]) -> Result<u32> {
        value(tokens).map_err(problem)
    }

    /// As [`ListOps::sequences`], none of those that were seen, which they then are too.
    pub(crate) fn unseen(
        &self,
        seed: u64,
        range: Range<usize>,
        seen: &mut Seen,
    ) -> Result<SequenceSet> {
        self.validate()?;
        let mut flat = Flat::default();
        for start in range.clone().step_by(CHUNK) {
            let chunk = start..range.end.min(start.saturating_add(CHUNK));
            let one = |index| {
                let tokens = self.draw(seed, index, 0)?;
                let value = Self::evaluate(&tokens)?;
                Ok((tokens, value))
            };
            let drawn = chunk.clone().into_par_iter().map(one).collect::<Result<Vec<_>>>()?;
            // In the order of the indices, so that which of two equal ones stays does not depend on threads.
            for (index, (mut tokens, mut value)) in chunk.zip(drawn) {
                for again in 1.. {
                    if seen.insert(&tokens) {
                        break;
                    }
                    if again > REDRAWS {
                        let (have, wanted) = (flat.labels.len(), range.len());
                        return Err(problem(format!(
                            "{REDRAWS} draws after {have} of {wanted} sequences were all there already: ask for \
                             fewer, or allow longer ones"
                        )));
                    }
                    tokens = self.draw(seed, index, again)?;
                    value = Self::evaluate(&tokens)?;
                }
                flat.push(tokens);
                flat.labels.push(value);
            }
        }
        SequenceSet::of_flat(self.name(), [VOCABULARY, CLASSES], false, flat)
    }

    /// What generated sequences are called: not as the released ones.
    pub(crate) fn name(&self) -> String {
        let Self { max_depth, max_args, min_length, max_length } = *self;
        match *self == Self::published() {
            true => "generated ListOps".into(),
            false => format!(
                "generated ListOps (depth {max_depth}, {max_args} arguments, {} to {} tokens)",
                min_length + 1,
                max_length.saturating_sub(1)
            ),
        }
    }

    /// Draw `again` of a sequence.
    fn draw(&self, seed: u64, index: usize, again: usize) -> Result<Vec<u16>> {
        let mut rng = stream(seed, again, index, Purpose::ListOps);
        let (mut tokens, mut open) = (Vec::with_capacity(self.max_length.min(4096)), Vec::new());
        let (mut work, mut trees) = (0, 0);
        while work < WORK {
            if self.tree(&mut rng, &mut tokens, &mut open) {
                return Ok(tokens);
            }
            work += tokens.len();
            trees += 1;
        }
        Err(problem(format!(
            "none of {trees} trees has more than {} and fewer than {} tokens: allow other lengths, or another \
             depth and number of arguments",
            self.min_length, self.max_length
        )))
    }

    /// Draws a tree and says whether it is kept; one that becomes too long is not drawn to its end. `open` is
    /// room for the arguments that each open operator waits for.
    fn tree(&self, rng: &mut impl Rng, tokens: &mut Vec<u16>, open: &mut Vec<u32>) -> bool {
        tokens.clear();
        open.clear();
        // Tokens that are to come at least: one for every argument and every end of a list.
        let mut owed = 1;
        while tokens.len() + owed < self.max_length {
            owed -= 1;
            if open.len() + 1 < self.max_depth && rng.random::<u32>() < 1 << 30 {
                tokens.push(1 + rng.random_range(0..OPERATORS) as u16);
                let args = rng.random_range(2..=self.max_args as u32);
                open.push(args);
                owed += args as usize + 1;
                continue;
            }
            tokens.push(DIGIT + rng.random_range(0..10u32) as u16);
            while let Some(left) = open.last_mut() {
                *left -= 1;
                if *left > 0 {
                    break;
                }
                open.pop();
                tokens.push(CLOSE);
                owed -= 1;
            }
            if open.is_empty() {
                return tokens.len() > self.min_length;
            }
        }
        false
    }
}

fn problem(problem: String) -> Error {
    Error::Sequences { name: "ListOps".into(), problem }
}

/// Sequences that are there already, by 128 bits of their BLAKE3.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashSet<[u8; 16]>);

impl Seen {
    /// Whether it is new.
    pub(crate) fn insert(&mut self, tokens: &[u16]) -> bool {
        let bytes: Vec<u8> = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        self.0.insert(key)
    }
}
