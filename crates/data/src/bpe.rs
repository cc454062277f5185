//! Training of a byte-level BPE, deterministic to the bit, and the merges that a WordPiece grows by.
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
/// A distinct word as ids, and how often it occurs.
pub(crate) type Word = (Vec<u32>, i64);

/// Bytes of text that are split into words at a time.
const CHUNK: usize = 1 << 22;
/// A pair that occurs less often is not merged.
pub(crate) const MIN_COUNT: i64 = 2;

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
    let counts = count_words(documents, "BPE", |document, words| {
        let mut text = PreTokenizedString::from(document);
        ByteLevel::new(false, true, true).pre_tokenize(&mut text)?;
        let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().for_each(|(word, ..)| words(word));
        Ok(())
    })?;
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut tokens = vec![end.to_string()];
    tokens.extend(alphabet.into_iter().map(String::from));
    let ids: BTreeMap<&str, u32> = tokens.iter().map(String::as_str).zip(0..).collect();
    let id = |c: char| ids.get(&*c.encode_utf8(&mut [0; 4])).copied();
    let words = counts.iter().map(|(word, &count)| (word.chars().filter_map(id).collect(), count));
    let words: Vec<Word> = words.collect();
    grow("BPE", tokens, words, vocab_size, |a, b| format!("{a}{b}"))
}

/// Grows `tokens` to `vocab_size` by merges of the most frequent pair, of equals the one with the
/// smallest ids; `join` spells the token of a pair. Ids by token, and merges in order.
pub(crate) fn grow(
    kind: &str,
    mut tokens: Vec<String>,
    words: Vec<Word>,
    vocab_size: usize,
    join: impl Fn(&str, &str) -> String,
) -> Result<Model> {
    let mut ids: BTreeMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
    let mut words = Words::new(words);
    let (mut merges, mut done) = (Vec::new(), HashSet::new());
    while tokens.len() < vocab_size {
        let Some((left, right)) = words.pop() else {
            let n = tokens.len();
            let problem = format!(
                "no pair occurs {MIN_COUNT} times after {n} tokens; give more text, or ask for {n} or fewer"
            );
            return Err(Error::Tokenizer { name: format!("{kind} of {vocab_size}"), problem });
        };
        let (a, b) = (&tokens[left as usize], &tokens[right as usize]);
        let token = join(a, b);
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

/// How often each word occurs; only a chunk of the corpus is in memory.
pub(crate) fn count_words<S: AsRef<str> + Sync>(
    documents: impl IntoIterator<Item = Result<S>>,
    kind: &str,
    split: impl Fn(&str, &mut dyn FnMut(&str)) -> tokenizers::Result<()> + Sync,
) -> Result<BTreeMap<String, i64>> {
    let fail = |problem| Error::Tokenizer { name: kind.into(), problem };
    let mut counts = HashMap::new();
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for document in documents {
        let document = document?;
        bytes += document.as_ref().len();
        chunk.push(document);
        if bytes >= CHUNK {
            count_chunk(&chunk, &mut counts, &split).map_err(|e| fail(e.to_string()))?;
            chunk.clear();
            bytes = 0;
        }
    }
    count_chunk(&chunk, &mut counts, &split).map_err(|e| fail(e.to_string()))?;
    if counts.is_empty() {
        return Err(fail("the corpus is empty; give at least one document".into()));
    }
    Ok(counts.into_iter().collect())
}

fn count_chunk<S: AsRef<str> + Sync>(
    chunk: &[S],
    counts: &mut HashMap<String, i64>,
    split: &(impl Fn(&str, &mut dyn FnMut(&str)) -> tokenizers::Result<()> + Sync),
) -> tokenizers::Result<()> {
    let size = chunk.len().div_ceil(4 * rayon::current_num_threads()).max(1);
    let parts = chunk.par_chunks(size).map(|documents| {
        let mut counts: HashMap<String, i64> = HashMap::new();
        for document in documents {
            split(document.as_ref(), &mut |word| match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(counts.insert(word.into(), 1)),
            })?;
        }
        Ok(counts)
    });
    for part in parts.collect::<tokenizers::Result<Vec<_>>>()? {
        for (word, count) in part {
            *counts.entry(word).or_default() += count;
        }
    }
    Ok(())
}

/// The distinct words as ids, and where each pair of ids occurs.
struct Words {
    words: Vec<Word>,
    counts: HashMap<Pair, i64>,
    /// Words that hold or held a pair; may repeat.
    places: HashMap<Pair, Vec<usize>>,
    /// Pairs by a count that was true once, the largest first, then the smallest ids.
    queue: BinaryHeap<(i64, Reverse<Pair>)>,
}

impl Words {
    fn new(words: Vec<Word>) -> Self {
        let mut this = Self {
            words,
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
