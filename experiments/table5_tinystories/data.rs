//! The text of a run: documents, tokenizer, shards on disk, and the n-gram model to beat.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use conditioned_data::{
    Corpus, Layout, Ngram, Part, Parts, SHARD_BYTES, Score, Sequence, Tokenizer, Tokens, stories,
    write_shards,
};
use experiments::hub;
use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;

/// Seed of the generated stories and of the parts, the same for all cells: arms and seeds share
/// their documents.
const DATA_SEED: u64 = 0;

/// Order of the n-gram model that a transformer has to beat.
const NGRAM_ORDER: usize = 5;

/// Training tokens that it counts at most: its memory grows with them.
const NGRAM_TOKENS: usize = 5_000_000;

/// Which text, and what was found in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataConfig {
    /// The text, by name.
    pub(crate) name: String,
    /// BLAKE3 of all documents, in order.
    pub(crate) hash: String,
    /// Where tokenizer and shards are.
    pub(crate) folder: PathBuf,
    /// The tokenizer's hash.
    pub(crate) tokenizer: String,
    /// Tokens that it knows.
    pub(crate) vocabulary: usize,
    /// Share of the documents to tune on.
    tune: f64,
    /// Share of the documents to test on.
    test: f64,
    /// Training tokens.
    pub(crate) train_tokens: usize,
    /// Test tokens, ends of text included, over bytes of test documents: turns nats per token into
    /// bits per byte.
    pub(crate) test_tokens_per_byte: f64,
    /// The n-gram model of the training tokens on the test documents, in nats per token.
    pub(crate) ngram_loss: f64,
}

/// The tokens of a run.
pub(crate) struct Text {
    /// Text to tokens and back.
    pub(crate) tokenizer: Tokenizer,
    /// To train on.
    pub(crate) train: Sequence,
    /// To choose settings on.
    pub(crate) tune: Sequence,
    /// For the reported number.
    pub(crate) test: Sequence,
}

impl DataConfig {
    /// Prepares the text that a recipe asks for: writes tokenizer and shards to a folder of their own
    /// inside `folder`, where what is there already is kept.
    ///
    /// # Errors
    /// When the text cannot be read, is empty or too short, or the tokenizer is missing.
    pub(crate) fn prepare(data: Option<&Path>, recipe: &Recipe, folder: &Path) -> Result<Self> {
        let parts = Parts { seed: DATA_SEED, tune: recipe.tune, test: recipe.test };
        let source = Source::new(data, recipe)?;
        let (mut hasher, mut count, mut test_bytes) = (blake3::Hasher::new(), 0, 0);
        for document in source.documents() {
            let document = document?;
            count += 1;
            hasher.update(&(document.len() as u64).to_le_bytes()).update(document.as_bytes());
            if parts.part(&document)? == Part::Test {
                test_bytes += document.len();
            }
        }
        if let (0, Some(data)) = (count, data) {
            bail!("--data {}: the corpus is empty; give at least one document", data.display());
        }
        let training = || {
            source.documents().filter(|document| {
                // What is no document is an error to hand on.
                document
                    .as_ref()
                    .map_or(true, |text| parts.part(text).is_ok_and(|part| part == Part::Train))
            })
        };
        let tokenizer = match recipe.tokenizer.as_str() {
            // Every character must have a token, also one that only a test document has.
            // (A document that cannot be read was an error above.)
            "characters" => Tokenizer::characters(source.documents().filter_map(Result::ok))?,
            name => match name.strip_prefix("bpe-").map(str::parse) {
                Some(Ok(size)) => Tokenizer::train(training(), size)?,
                _ => read_tokenizer(Path::new(name))?,
            },
        };
        // Another text or tokenizer has another folder: what a run is based on is not overwritten.
        let hash = hasher.finalize().to_hex().to_string();
        let key = blake3::hash(format!("{hash} {}", tokenizer.hash()).as_bytes()).to_hex();
        let folder = &folder.join(&key[..12]);
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        tokenizer.save(folder.join("tokenizer.json"))?;
        write_shards(folder.join("tokens"), source.documents(), &tokenizer, SHARD_BYTES)?;

        let mut config = Self {
            name: source.name(),
            hash,
            folder: folder.to_path_buf(),
            tokenizer: tokenizer.hash(),
            vocabulary: tokenizer.vocab_size(),
            tune: recipe.tune,
            test: recipe.test,
            train_tokens: 0,
            test_tokens_per_byte: 0.0,
            ngram_loss: 0.0,
        };
        let text = config.load()?;
        for (name, part) in [("train", &text.train), ("tune", &text.tune), ("test", &text.test)] {
            ensure!(
                part.len() > recipe.context,
                "{}: {} {name} tokens do not fill a window of {}; give more text, or a smaller \
                 context",
                config.name,
                part.len(),
                recipe.context
            );
        }
        config.train_tokens = text.train.len();
        config.test_tokens_per_byte = text.test.len() as f64 / test_bytes as f64;
        config.ngram_loss = text.ngram()?.nats_per_token();
        Ok(config)
    }

    /// Opens the tokens that were prepared.
    ///
    /// # Errors
    /// When they are missing, damaged, or not those that the run was planned for.
    pub(crate) fn load(&self) -> Result<Text> {
        let tokenizer = Tokenizer::read(self.folder.join("tokenizer.json"))?;
        ensure!(
            tokenizer.hash() == self.tokenizer,
            "{}: the tokenizer is not the one that this run was planned with; choose another --out",
            self.folder.display()
        );
        let tokens = Arc::new(Tokens::open(self.folder.join("tokens"), &tokenizer)?);
        let parts = Parts { seed: DATA_SEED, tune: self.tune, test: self.test };
        let part = |part| Sequence::new(tokens.clone(), &parts, part);
        Ok(Text {
            train: part(Part::Train)?,
            tune: part(Part::Tune)?,
            test: part(Part::Test)?,
            tokenizer,
        })
    }

    /// Checks that a story can begin with `prompt`: it is written at the end of a run.
    ///
    /// # Errors
    /// When the tokenizer cannot write it, or it fills the context.
    pub(crate) fn check_prompt(&self, prompt: &str, context: usize) -> Result<()> {
        let tokenizer = Tokenizer::read(self.folder.join("tokenizer.json"))?;
        let ids = tokenizer.encode(prompt).with_context(|| format!("--set prompt={prompt}"))?;
        ensure!(
            !ids.is_empty() && ids.len() < context,
            "--set prompt={prompt}: {} tokens; at least 1, and fewer than the context of {context}",
            ids.len()
        );
        Ok(())
    }

    /// Bits per byte of test text at a loss in nats per token.
    pub(crate) fn bits_per_byte(&self, loss: f64) -> f64 {
        loss * self.test_tokens_per_byte / std::f64::consts::LN_2
    }
}

impl Text {
    /// What the n-gram model of the training documents pays for the test documents.
    fn ngram(&self) -> Result<Score> {
        let mut counted = 0;
        let training = documents(&self.train).take_while(|document| {
            counted += document.as_ref().map_or(0, Vec::len);
            counted <= NGRAM_TOKENS
        });
        let model = Ngram::train(NGRAM_ORDER, self.tokenizer.vocab_size(), training)?;
        Ok(model.score(documents(&self.test).collect::<Result<Vec<_>, _>>()?)?)
    }
}

/// The tokens of a part's documents, one after the other.
fn documents(part: &Sequence) -> impl Iterator<Item = conditioned_data::Result<Vec<u32>>> + '_ {
    part.documents().iter().map(|&i| part.tokens().document(i))
}

/// Where documents come from.
enum Source {
    Stories(u64),
    Files(Corpus, String),
}

impl Source {
    fn new(data: Option<&Path>, recipe: &Recipe) -> Result<Self> {
        let Some(path) = data else {
            ensure!(recipe.stories > 0, "--set stories=0: at least one is needed without --data");
            return Ok(Self::Stories(recipe.stories as u64));
        };
        if let Some(id) = hub::id(path) {
            return Ok(Self::Files(hub::corpus(id)?, id.to_string()));
        }
        let layout = match is_jsonl(path) {
            true => Layout::Jsonl("text".to_string()),
            false => Layout::Separated(recipe.separator.clone()),
        };
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self::Files(Corpus::open(path, layout)?, name))
    }

    fn name(&self) -> String {
        match self {
            Self::Stories(count) => format!("{count} generated stories"),
            Self::Files(_, name) => name.clone(),
        }
    }

    fn documents(&self) -> Box<dyn Iterator<Item = conditioned_data::Result<String>> + '_> {
        match self {
            Self::Stories(count) => Box::new(stories(DATA_SEED, *count)),
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

/// The tokenizer in a file, or in a folder in one of its two forms.
///
/// # Errors
/// When it is missing or damaged.
pub(crate) fn read_tokenizer(path: &Path) -> Result<Tokenizer> {
    let (vocab, merges) = (path.join("vocab.json"), path.join("merges.txt"));
    if path.is_dir() && !path.join("tokenizer.json").exists() && vocab.exists() {
        return Ok(Tokenizer::read_gpt2(vocab, merges)?);
    }
    let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
    if !file.exists() {
        bail!(
            "no tokenizer at {}: `--set tokenizer=` takes `characters`, `bpe-V` with a number of \
             tokens V, or the path of a tokenizer.json (or of a folder with it, or with vocab.json \
             and merges.txt)",
            file.display()
        );
    }
    Ok(Tokenizer::read(file)?)
}
