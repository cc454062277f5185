//! [`TextConfig`]: a text as tokens on disk, by name and hash, to be read again by another process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::preparation::parts;
use crate::{
    END_OF_TEXT, Error, Ngram, Part, Preparation, Result, SHARD_BYTES, Sequence, TextSource,
    Tokenizer, Tokens, write_shards,
};

/// Order of the n-gram model that a transformer has to beat.
const NGRAM_ORDER: usize = 5;

/// Training tokens that it counts at most: its memory grows with them.
const NGRAM_TOKENS: usize = 5_000_000;

/// Which text, and what was found in it.
///
/// ```
/// use conditioned_data::{Preparation, TextConfig, TextSource};
///
/// let folder = tempfile::tempdir()?;
/// let how = Preparation { tokenizer: "characters", tune: 0.1, test: 0.1, window: 32 };
/// let text = TextConfig::prepare(&TextSource::stories(100), &how, folder.path())?;
/// assert_eq!(text.name, "100 generated stories");
/// assert_eq!(text.load()?.train.len(), text.train_tokens);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// The text, by name.
    pub name: String,
    /// BLAKE3 of all documents, in order.
    pub hash: String,
    /// Where tokenizer and shards are.
    pub folder: PathBuf,
    /// The tokenizer's hash.
    pub tokenizer: String,
    /// Tokens that it knows.
    pub vocabulary: usize,
    /// Share of the documents to tune on.
    tune: f64,
    /// Share of the documents to test on.
    test: f64,
    /// Training tokens.
    pub train_tokens: usize,
    /// Test tokens, ends of text included.
    test_tokens: usize,
    /// Bytes of the test documents.
    test_bytes: usize,
}

impl PartialEq for TextConfig {
    /// Whether texts, tokenizers and parts are the same, wherever their files lie.
    fn eq(&self, other: &Self) -> bool {
        let content = |text: &Self| {
            let Self { name, hash, tokenizer, tune, test, .. } = text.clone();
            (name, hash, tokenizer, tune, test)
        };
        content(self) == content(other)
    }
}

/// The documents of a text as tokens.
#[derive(Debug, Clone)]
pub struct TextSplits {
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// To train on.
    pub train: Sequence,
    /// To choose settings on.
    pub tune: Sequence,
    /// For the reported number.
    pub test: Sequence,
}

impl TextConfig {
    /// Prepares a text: writes tokenizer and shards to a folder of their own inside `folder`, where what
    /// is there already is kept.
    ///
    /// # Errors
    /// When the text cannot be read, is empty or too short, or the tokenizer is missing.
    pub fn prepare(source: &TextSource, how: &Preparation<'_>, folder: &Path) -> Result<Self> {
        let parts = parts(how.tune, how.test);
        let (mut hasher, mut test_bytes) = (blake3::Hasher::new(), 0);
        // Documents of each part: to train, tune and test on.
        let mut counts = [0; 3];
        let (mut first, mut all_equal, mut last) = (None, true, String::new());
        for document in source.documents() {
            let document = document?;
            hasher.update(&(document.len() as u64).to_le_bytes()).update(document.as_bytes());
            let part = parts.part(&document)?;
            counts[part as usize] += 1;
            if part == Part::Test {
                test_bytes += document.len();
            }
            let hash = blake3::hash(document.as_bytes());
            all_equal &= *first.get_or_insert(hash) == hash;
            last = document;
        }
        check_parts(source, how, counts, all_equal, &last)?;
        let tokenizer = how.tokenizer(source)?;
        // Another text or tokenizer has another folder: what a run is based on is not overwritten.
        let hash = hasher.finalize().to_hex().to_string();
        let key = blake3::hash(format!("{hash} {}", tokenizer.hash()).as_bytes()).to_hex();
        let folder = folder.join(&key[..12]);
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        tokenizer.save(&folder)?;
        write_shards(folder.join("tokens"), source.documents(), &tokenizer, SHARD_BYTES)?;

        let mut config = Self {
            name: source.name().to_string(),
            hash,
            folder,
            tokenizer: tokenizer.hash(),
            vocabulary: tokenizer.vocab_size(),
            tune: how.tune,
            test: how.test,
            train_tokens: 0,
            test_tokens: 0,
            test_bytes,
        };
        let text = config.load()?;
        for (name, part) in [("train", &text.train), ("tune", &text.tune), ("test", &text.test)] {
            if part.len() <= how.window {
                let (text, tokens, window) = (config.name, part.len(), how.window);
                return Err(Error::Short { text, part: name, tokens, window });
            }
        }
        (config.train_tokens, config.test_tokens) = (text.train.len(), text.test.len());
        Ok(config)
    }

    /// Test tokens over bytes of test documents: turns nats per token into nats per byte.
    pub fn test_tokens_per_byte(&self) -> f64 {
        self.test_tokens as f64 / self.test_bytes as f64
    }

    /// The tokenizer that was prepared.
    pub fn tokenizer_file(&self) -> PathBuf {
        self.folder.join("tokenizer.json")
    }

    /// Opens the tokens that were prepared.
    ///
    /// # Errors
    /// When they are missing, damaged, or of another tokenizer.
    pub fn load(&self) -> Result<TextSplits> {
        let file = self.tokenizer_file();
        let tokenizer = Tokenizer::read(&file)?;
        Error::unchanged(file.display(), "tokens", &self.tokenizer, &tokenizer.hash())?;
        let tokens = Arc::new(Tokens::open(self.folder.join("tokens"), &tokenizer)?);
        let parts = parts(self.tune, self.test);
        let part = |part| Sequence::new(tokens.clone(), &parts, part);
        Ok(TextSplits {
            train: part(Part::Train)?,
            tune: part(Part::Tune)?,
            test: part(Part::Test)?,
            tokenizer,
        })
    }
}

/// Checks that each part has a document.
fn check_parts(
    source: &TextSource,
    how: &Preparation<'_>,
    counts: [usize; 3],
    all_equal: bool,
    last: &str,
) -> Result<()> {
    let all: usize = counts.iter().sum();
    if all == 0 {
        return Err(Error::empty(source.place().into()));
    }
    let missing = ["train", "tune", "test"].into_iter().zip(counts).find(|(_, count)| *count == 0);
    let Some((part, _)) = missing else { return Ok(()) };
    if let (1, Some(separator)) = (all, source.separator()) {
        let quoted = |line: &str| match line.trim() {
            "" => "blank".to_string(),
            line => format!("{line:?}"),
        };
        let usual = ["", END_OF_TEXT, "---", "***"].into_iter();
        let found = usual.filter_map(|line| {
            let count = last.lines().filter(|found| found.trim() == line).count();
            (count > 0).then(|| format!("{count} lines are {}", quoted(line)))
        });
        let found = found.collect::<Vec<_>>().join(", ");
        let lines = last.lines().count();
        let found =
            if found.is_empty() { format!("of its {lines} lines none is blank") } else { found };
        let (text, separator) = (source.place(), quoted(separator));
        return Err(Error::Separator { text, separator, found });
    }
    let problem = match all_equal {
        true => format!(
            "its {all} documents are all the same, and equal ones stay in one part; give documents that differ"
        ),
        false => format!(
            "of {all} documents, of which a share of {} is to tune and of {} to test on; give more documents, or \
             larger shares",
            how.tune, how.test
        ),
    };
    Err(Error::Part { text: source.place(), part, problem })
}

impl TextSplits {
    /// What a 5-gram model of the training documents, of their first five million tokens at most, pays
    /// for the test documents, in nats per token.
    ///
    /// # Errors
    /// When the tokens cannot be read.
    pub fn ngram_loss(&self) -> Result<f64> {
        let documents = |part: &Sequence| {
            let part = part.clone();
            let documents = part.documents().to_vec().into_iter();
            documents.map(move |i| part.tokens().document(i))
        };
        let training = first_tokens(documents(&self.train), NGRAM_TOKENS);
        let model = Ngram::train(NGRAM_ORDER, self.tokenizer.vocab_size(), training)?;
        let test = documents(&self.test).collect::<Result<Vec<_>>>()?;
        Ok(model.score(test)?.nats_per_token())
    }
}

/// Documents up to so many tokens in all; the last one is cut there.
fn first_tokens(
    documents: impl Iterator<Item = Result<Vec<u32>>>,
    limit: usize,
) -> impl Iterator<Item = Result<Vec<u32>>> {
    let mut left = limit;
    documents.map_while(move |document| {
        (left > 0).then(|| {
            let mut ids = document?;
            ids.truncate(left);
            left -= ids.len();
            Ok(ids)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_cut_where_the_tokens_are_enough() {
        let first = |lengths: &[usize]| {
            let documents = lengths.iter().map(|&length| Ok(vec![7; length]));
            let lengths = first_tokens(documents, 10).map(|ids| ids.map(|ids| ids.len()));
            lengths.collect::<Result<Vec<_>>>().unwrap()
        };
        assert_eq!(first(&[3, 11, 3]), [3, 7]);
        assert_eq!(first(&[11]), [10]);
        assert_eq!(first(&[4, 6, 1]), [4, 6]);
        assert_eq!(first(&[4, 0, 2]), [4, 0, 2]);
        let error = || Err(Error::config("order", 0, "expected 1 to 32"));
        let with_error = [Ok(vec![7; 3]), error()];
        assert!(first_tokens(with_error.into_iter(), 10).collect::<Result<Vec<_>>>().is_err());
    }
}
