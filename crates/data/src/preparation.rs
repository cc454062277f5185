//! [`Preparation`]: how documents become tokens, and which of them are held out.

use std::path::Path;

use crate::{Error, Part, Parts, Result, TextSource, Tokenizer};

/// Seed of the parts: all who read the same text get the same documents.
const PARTS_SEED: u64 = 0;

/// How documents become tokens, and which of them are held out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preparation<'a> {
    /// `characters`; `bpe-V` or `wordpiece-V`, trained on the training documents; or the path of a
    /// tokenizer.
    pub tokenizer: &'a str,
    /// Share of the documents to tune on.
    pub tune: f64,
    /// Share of the documents to test on.
    pub test: f64,
    /// Tokens that each part must have more of.
    pub window: usize,
}

impl Preparation<'_> {
    /// The tokenizer for these documents, of which none is an error.
    pub(crate) fn tokenizer(&self, source: &TextSource) -> Result<Tokenizer> {
        let parts = parts(self.tune, self.test);
        let training = || {
            source.documents().filter(|document| {
                // What is no document is an error to hand on.
                document
                    .as_ref()
                    .map_or(true, |text| parts.part(text).is_ok_and(|part| part == Part::Train))
            })
        };
        let size = |prefix| self.tokenizer.strip_prefix(prefix)?.parse::<usize>().ok();
        match (self.tokenizer, size("bpe-"), size("wordpiece-")) {
            // Every character must have a token, also one that only a test document has.
            ("characters", ..) => Tokenizer::characters(source.documents().filter_map(Result::ok)),
            (_, Some(size), _) => Tokenizer::train(training(), size),
            (_, _, Some(size)) => Tokenizer::train_wordpiece(training(), size),
            (path, None, None) if Path::new(path).exists() => Tokenizer::read(path),
            (path, None, None) => Err(Error::NoTokenizer { path: path.into() }),
        }
    }
}

/// The assignment of documents to parts.
pub(crate) fn parts(tune: f64, test: f64) -> Parts {
    Parts { seed: PARTS_SEED, tune, test }
}
