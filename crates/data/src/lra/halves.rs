//! What stands in for the retrieval of the Long Range Arena: halves of one text, or of two texts of one class.

use std::path::Path;

use rand::seq::SliceRandom;

use super::text::{Labelled, LabelledTexts};
use super::{BYTES, check_length, ids};
use crate::sequence_set::Flat;
use crate::stream::{Purpose, stream};
use crate::{Error, Result, SequenceSet, SequenceSplits};

/// Seed of the pairs: all who read the same texts get the same.
const SEED: u64 = 0;

/// Pairs of pieces of at most `max_length` bytes, twice as many as texts, each pair of texts of one part.
///
/// A text is cut in the middle, and its pieces are the beginnings of its halves. Its first piece is paired with
/// its own second piece (class 1) and with that of another text of the same class (class 0): every piece comes
/// once in each, so none alone tells the class of a pair. The other text is one of about the same length, and
/// both pieces of a pair are cut to the shorter one: neither do lengths.
///
/// # Errors
/// When the texts cannot be read, a text has a single byte, or a class has a single text in some part.
pub(crate) fn read(path: &Path, max_length: usize) -> Result<SequenceSplits> {
    check_length(max_length)?;
    let texts = LabelledTexts::read(path)?;
    let part = |part: usize| {
        let flat = pairs(&texts.parts[part], max_length, part)
            .map_err(|problem| Error::Corpus { path: path.into(), problem })?;
        SequenceSet::of_flat(format!("halves of {}", texts.name), [BYTES, 2], true, flat)
    };
    Ok(SequenceSplits { train: part(0)?, tune: part(1)?, test: part(2)? })
}

/// The pairs of a part, by its number.
fn pairs(texts: &[Labelled], max_length: usize, part: usize) -> std::result::Result<Flat, String> {
    let halves = |i: usize| {
        let (first, second) = texts[i].bytes.split_at(texts[i].bytes.len() / 2);
        (&first[..first.len().min(max_length)], &second[..second.len().min(max_length)])
    };
    let short = |text: &&Labelled| text.bytes.len() < 2;
    if let Some(text) = texts.iter().find(short) {
        let text = String::from_utf8_lossy(&text.bytes);
        return Err(format!("the text {text:?} has no two halves; leave it out"));
    }
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.shuffle(&mut stream(SEED, 0, part, Purpose::Halves));
    // Stable: texts of one length stay shuffled.
    order.sort_by_key(|&i| (texts[i].label, halves(i).0.len()));
    let mut other = vec![0; texts.len()];
    for class in order.chunk_by(|&a, &b| texts[a].label == texts[b].label) {
        if let [alone] = class {
            let label = texts[*alone].label;
            return Err(format!("a single text of class {label} in a part; give more texts"));
        }
        for group in groups(class) {
            for (&i, &next) in group.iter().zip(group.iter().cycle().skip(1)) {
                other[i] = next;
            }
        }
    }
    let mut flat = Flat::default();
    for (i, other) in other.into_iter().enumerate() {
        let first = halves(i).0;
        for (second, label) in [(halves(i).1, 1), (halves(other).1, 0)] {
            let length = first.len().min(second.len());
            flat.push(ids(first, length));
            flat.push(ids(second, length));
            flat.labels.push(label);
        }
    }
    Ok(flat)
}

/// Groups of two neighbours, and of three at the end of an odd number.
fn groups(class: &[usize]) -> impl Iterator<Item = &[usize]> {
    let even = class.len() - if class.len() % 2 == 1 { 3 } else { 0 };
    let (pairs, rest) = class.split_at(even);
    pairs.chunks(2).chain((!rest.is_empty()).then_some(rest))
}
