//! Training of a byte-level BPE, deterministic to the bit.
//!
//! R. Sennrich, B. Haddow, A. Birch, *Neural Machine Translation of Rare Words with Subword Units*,
//! ACL 2016; on bytes, as in GPT-2. The vocabulary is that of the trainer in `tokenizers`. That one
//! keeps the places of a pair in several entries of its queue, which tie when two merges spell one
//! token, so that nothing but its hash maps would order them; here a pair has all its places at once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use rayon::prelude::*;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use crate::{Error, Result};

type Pair = (u32, u32);
type Model = (BTreeMap<String, u32>, Vec<(String, String)>);

/// Bytes of text that are split into words at a time.
const CHUNK: usize = 1 << 22;
/// A pair that occurs less often is not merged.
const MIN_COUNT: i64 = 2;

/// Ids by token and merges in order.
pub(crate) fn train<S: AsRef<str> + Sync>(
    documents: impl IntoIterator<Item = Result<S>>,
    vocab_size: usize,
    end: &str,
) -> Result<Model> {
    if vocab_size < 257 {
        return Err(Error::config(
            "vocab_size",
            vocab_size,
            "expected at least 257: bytes and end",
        ));
    }
    let counts = count_words(documents)?;
    if counts.is_empty() {
        return Err(failure(vocab_size, "the corpus is empty; give at least one document".into()));
    }
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut tokens = vec![end.to_string()];
    tokens.extend(alphabet.into_iter().map(String::from));
    let mut ids: BTreeMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
    let mut words = Words::new(&counts, &ids);
    let (mut merges, mut done) = (Vec::new(), HashSet::new());
    while tokens.len() < vocab_size {
        let Some((left, right)) = words.pop() else {
            let n = tokens.len();
            let problem = format!(
                "no pair occurs {MIN_COUNT} times after {n} tokens; give more text, or ask for {n} or fewer"
            );
            return Err(failure(vocab_size, problem));
        };
        let (a, b) = (&tokens[left as usize], &tokens[right as usize]);
        let token = format!("{a}{b}");
        // A pair can come back, of a token that another merge spells too.
        if done.insert((left, right)) {
            merges.push((a.clone(), b.clone()));
        }
        // Two merges can spell one token: `ab` + `c` and `a` + `bc`.
        let id = *ids.entry(token.clone()).or_insert(tokens.len() as u32);
        if id as usize == tokens.len() {
            tokens.push(token);
        }
        words.merge((left, right), id);
    }
    Ok((ids, merges))
}

fn failure(vocab_size: usize, problem: String) -> Error {
    Error::Tokenizer { name: format!("BPE of {vocab_size}"), problem }
}

/// How often each word occurs, in the byte-level alphabet; only a chunk of the corpus is in memory.
fn count_words<S: AsRef<str> + Sync>(
    documents: impl IntoIterator<Item = Result<S>>,
) -> Result<BTreeMap<String, i64>> {
    let mut counts = HashMap::new();
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for document in documents {
        let document = document?;
        bytes += document.as_ref().len();
        chunk.push(document);
        if bytes >= CHUNK {
            count_chunk(&chunk, &mut counts)?;
            chunk.clear();
            bytes = 0;
        }
    }
    count_chunk(&chunk, &mut counts)?;
    Ok(counts.into_iter().collect())
}

fn count_chunk<S: AsRef<str> + Sync>(chunk: &[S], counts: &mut HashMap<String, i64>) -> Result<()> {
    let size = chunk.len().div_ceil(4 * rayon::current_num_threads()).max(1);
    let parts = chunk.par_chunks(size).map(|documents| {
        let mut counts: HashMap<String, i64> = HashMap::new();
        for document in documents {
            let mut text = PreTokenizedString::from(document.as_ref());
            ByteLevel::new(false, true, true)
                .pre_tokenize(&mut text)
                .map_err(|e| failure(0, e.to_string()))?;
            for (word, ..) in text.get_splits(OffsetReferential::Original, OffsetType::Byte) {
                match counts.get_mut(word) {
                    Some(count) => *count += 1,
                    None => drop(counts.insert(word.into(), 1)),
                }
            }
        }
        Ok(counts)
    });
    for part in parts.collect::<Result<Vec<_>>>()? {
        for (word, count) in part {
            *counts.entry(word).or_default() += count;
        }
    }
    Ok(())
}

/// The distinct words as ids, and where each pair of ids occurs.
struct Words {
    words: Vec<(Vec<u32>, i64)>,
    counts: HashMap<Pair, i64>,
    /// Words that hold or held a pair; may repeat.
    places: HashMap<Pair, Vec<usize>>,
    /// Pairs by a count that was true once, the largest first, then the smallest ids.
    queue: BinaryHeap<(i64, Reverse<Pair>)>,
}

impl Words {
    fn new(counts: &BTreeMap<String, i64>, ids: &BTreeMap<String, u32>) -> Self {
        let id = |c: char| ids.get(c.encode_utf8(&mut [0; 4])).copied();
        let words =
            counts.iter().map(|(word, &count)| (word.chars().filter_map(id).collect(), count));
        let mut this = Self {
            words: words.collect(),
            counts: HashMap::new(),
            places: HashMap::new(),
            queue: BinaryHeap::new(),
        };
        for (i, (word, count)) in this.words.iter().enumerate() {
            for pair in word.windows(2).map(|w| (w[0], w[1])) {
                *this.counts.entry(pair).or_default() += count;
                this.places.entry(pair).or_default().push(i);
            }
        }
        this.queue = this.counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();
        this
    }

    /// The most frequent pair.
    fn pop(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            let now = self.counts.get(&pair).copied().unwrap_or(0);
            if now == count && now >= MIN_COUNT {
                return Some(pair);
            }
            if now >= MIN_COUNT && now < count {
                self.queue.push((now, Reverse(pair)));
            }
        }
        None
    }

    /// Replaces a pair by `id` in every word.
    fn merge(&mut self, pair: Pair, id: u32) {
        let mut places = self.places.remove(&pair).unwrap_or_default();
        places.sort_unstable();
        places.dedup();
        let mut grown: Vec<Pair> = Vec::new();
        for place in places {
            let (word, count) = &mut self.words[place];
            if !word.windows(2).any(|w| (w[0], w[1]) == pair) {
                continue;
            }
            for old in word.windows(2).map(|w| (w[0], w[1])) {
                *self.counts.entry(old).or_default() -= *count;
            }
            *word = merged(word, pair, id);
            for new in word.windows(2).map(|w| (w[0], w[1])) {
                *self.counts.entry(new).or_default() += *count;
                if new.0 == id || new.1 == id {
                    self.places.entry(new).or_default().push(place);
                    grown.push(new);
                }
            }
        }
        grown.sort_unstable();
        grown.dedup();
        for pair in grown {
            self.queue.push((self.counts[&pair], Reverse(pair)));
        }
    }
}

/// A word with each `pair`, from the left, replaced by `id`.
fn merged(word: &[u32], pair: Pair, id: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(word.len());
    let mut i = 0;
    while i < word.len() {
        if i + 1 < word.len() && (word[i], word[i + 1]) == pair {
            out.push(id);
            i += 2;
        } else {
            out.push(word[i]);
            i += 1;
        }
    }
    out
}
