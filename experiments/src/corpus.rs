//! The text of a language model's run: documents, tokenizer, and shards of tokens on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use conditioned_data::{
    Corpus, Layout, Part, Parts, SHARD_BYTES, Sequence, Tokenizer, Tokens, write_shards,
};
use serde::{Deserialize, Serialize};

use crate::hub;

/// Seed of the parts, the same for all cells: arms and seeds share their documents.
const PARTS_SEED: u64 = 0;

/// Documents, one at a time.
pub type Documents<'a> = Box<dyn Iterator<Item = conditioned_data::Result<String>> + 'a>;

/// Where documents come from.
pub enum Source {
    /// A generator that needs no file.
    Generated {
        /// What they are called.
        name: String,
        /// All of them, the same each time.
        documents: Box<dyn Fn() -> Documents<'static>>,
    },
    /// Text files, and what they are called.
    Files(Corpus, String),
}

impl Source {
    /// The documents of a file, a folder, or of `hub:ID`; in text files `separator` is the line between
    /// two of them.
    ///
    /// # Errors
    /// When there are none.
    pub fn open(path: &Path, separator: &str) -> Result<Self> {
        if let Some(id) = hub::id(path) {
            return Ok(Self::Files(hub::corpus(id)?, id.to_string()));
        }
        let layout = match is_jsonl(path) {
            true => Layout::Jsonl("text".to_string()),
            false => Layout::Separated(separator.to_string()),
        };
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self::Files(Corpus::open(path, layout)?, name))
    }

    /// What the documents are called.
    pub fn name(&self) -> &str {
        match self {
            Self::Generated { name, .. } | Self::Files(_, name) => name,
        }
    }

    /// The documents.
    pub fn documents(&self) -> Documents<'_> {
        match self {
            Self::Generated { documents, .. } => documents(),
            Self::Files(corpus, _) => Box::new(corpus.documents()),
        }
    }
}

/// Whether a path is a JSONL file, or a folder of which one lies at the top.
fn is_jsonl(path: &Path) -> bool {
    let named = |path: &Path| path.extension().is_some_and(|e| e == "jsonl" || e == "ndjson");
    let inside =
        || path.read_dir().is_ok_and(|mut all| all.any(|e| e.is_ok_and(|e| named(&e.path()))));
    named(path) || inside()
}

/// How documents become tokens, and which of them are held out.
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

/// Which text, and what was found in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Bytes of the test documents.
    pub test_bytes: usize,
}

/// The tokens of a run.
pub struct Text {
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
    pub fn prepare(source: &Source, how: &Preparation<'_>, folder: &Path) -> Result<Self> {
        let parts = Parts { seed: PARTS_SEED, tune: how.tune, test: how.test };
        let (mut hasher, mut count, mut test_bytes) = (blake3::Hasher::new(), 0, 0);
        for document in source.documents() {
            let document = document?;
            count += 1;
            hasher.update(&(document.len() as u64).to_le_bytes()).update(document.as_bytes());
            if parts.part(&document)? == Part::Test {
                test_bytes += document.len();
            }
        }
        if count == 0 {
            let files = match source {
                Source::Generated { name, .. } => name.clone(),
                Source::Files(corpus, _) => {
                    let files = corpus.files().iter().map(|file| file.display().to_string());
                    files.collect::<Vec<_>>().join(", ")
                }
            };
            bail!("{files}: the corpus is empty; give at least one document");
        }
        let training = || {
            source.documents().filter(|document| {
                // What is no document is an error to hand on.
                document
                    .as_ref()
                    .map_or(true, |text| parts.part(text).is_ok_and(|part| part == Part::Train))
            })
        };
        let size =
            |prefix| how.tokenizer.strip_prefix(prefix).and_then(|size| size.parse::<usize>().ok());
        let tokenizer = match (how.tokenizer, size("bpe-"), size("wordpiece-")) {
            // Every character must have a token, also one that only a test document has.
            // (A document that cannot be read was an error above.)
            ("characters", ..) => Tokenizer::characters(source.documents().filter_map(Result::ok))?,
            (_, Some(size), _) => Tokenizer::train(training(), size)?,
            (_, _, Some(size)) => Tokenizer::train_wordpiece(training(), size)?,
            (path, None, None) => read_tokenizer(Path::new(path))?,
        };
        // Another text or tokenizer has another folder: what a run is based on is not overwritten.
        let hash = hasher.finalize().to_hex().to_string();
        let key = blake3::hash(format!("{hash} {}", tokenizer.hash()).as_bytes()).to_hex();
        let folder = &folder.join(&key[..12]);
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        tokenizer.save(folder.join("tokenizer.json"))?;
        write_shards(folder.join("tokens"), source.documents(), &tokenizer, SHARD_BYTES)?;

        let mut config = Self {
            name: source.name().to_string(),
            hash,
            folder: folder.clone(),
            tokenizer: tokenizer.hash(),
            vocabulary: tokenizer.vocab_size(),
            tune: how.tune,
            test: how.test,
            train_tokens: 0,
            test_bytes,
        };
        let text = config.load()?;
        for (name, part) in [("train", &text.train), ("tune", &text.tune), ("test", &text.test)] {
            ensure!(
                part.len() > how.window,
                "{}: {} {name} tokens do not fill a window of {}; give more text, or a smaller \
                 context",
                config.name,
                part.len(),
                how.window
            );
        }
        config.train_tokens = text.train.len();
        Ok(config)
    }

    /// Opens the tokens that were prepared.
    ///
    /// # Errors
    /// When they are missing, damaged, or not those that the run was planned for.
    pub fn load(&self) -> Result<Text> {
        let tokenizer = Tokenizer::read(self.folder.join("tokenizer.json"))?;
        ensure!(
            tokenizer.hash() == self.tokenizer,
            "{}: the tokenizer is not the one that this run was planned with; choose another --out",
            self.folder.display()
        );
        let tokens = Arc::new(Tokens::open(self.folder.join("tokens"), &tokenizer)?);
        let parts = Parts { seed: PARTS_SEED, tune: self.tune, test: self.test };
        let part = |part| Sequence::new(tokens.clone(), &parts, part);
        Ok(Text {
            train: part(Part::Train)?,
            tune: part(Part::Tune)?,
            test: part(Part::Test)?,
            tokenizer,
        })
    }
}

/// The tokenizer in a file or a folder.
fn read_tokenizer(path: &Path) -> Result<Tokenizer> {
    ensure!(
        path.exists(),
        "no tokenizer at {}: `--set tokenizer=` takes `characters`, `bpe-V` or `wordpiece-V` with a number \
         of tokens V, or the path of a tokenizer.json (or of a folder with it, with vocab.json and \
         merges.txt, or with vocab.txt)",
        path.display()
    );
    Ok(Tokenizer::read(path)?)
}
