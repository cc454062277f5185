//! The text of a run, and the n-gram model to beat.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use conditioned_data::{Ngram, Score, Sequence, stories};
use experiments::corpus::{Preparation, Source, Text, TextConfig};
use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;

/// Seed of the generated stories.
const STORIES_SEED: u64 = 0;

/// Order of the n-gram model that a transformer has to beat.
const NGRAM_ORDER: usize = 5;

/// Training tokens that it counts at most: its memory grows with them.
const NGRAM_TOKENS: usize = 5_000_000;

/// Which text, and what an n-gram model makes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataConfig {
    /// The text.
    pub(crate) text: TextConfig,
    /// Test tokens, ends of text included, over bytes of test documents: turns nats per token into
    /// bits per byte.
    test_tokens_per_byte: f64,
    /// The n-gram model of the training tokens on the test documents, in nats per token.
    pub(crate) ngram_loss: f64,
}

impl DataConfig {
    /// Prepares the text that a recipe asks for, in `folder`.
    ///
    /// # Errors
    /// When the text cannot be read, is empty or too short, the tokenizer is missing, or a story cannot
    /// begin with the prompt.
    pub(crate) fn prepare(data: Option<&Path>, recipe: &Recipe, folder: &Path) -> Result<Self> {
        let source = match data {
            Some(path) => Source::open(path, &recipe.separator)?,
            None => generated(recipe.stories as u64)?,
        };
        let how = Preparation {
            tokenizer: &recipe.tokenizer,
            tune: recipe.tune,
            test: recipe.test,
            window: recipe.context,
        };
        let config = TextConfig::prepare(&source, &how, folder)?;
        let text = config.load()?;
        check_prompt(&text, &recipe.prompt, recipe.context)?;
        Ok(Self {
            test_tokens_per_byte: text.test.len() as f64 / config.test_bytes as f64,
            ngram_loss: ngram(&text)?.nats_per_token(),
            text: config,
        })
    }

    /// Bits per byte of test text at a loss in nats per token.
    pub(crate) fn bits_per_byte(&self, loss: f64) -> f64 {
        loss * self.test_tokens_per_byte / std::f64::consts::LN_2
    }
}

fn generated(count: u64) -> Result<Source> {
    ensure!(count > 0, "--set stories=0: at least one is needed without --data");
    Ok(Source::Generated {
        name: format!("{count} generated stories"),
        documents: Box::new(move || Box::new(stories(STORIES_SEED, count))),
    })
}

/// Checks that a story can begin with `prompt`: it is written at the end of a run.
fn check_prompt(text: &Text, prompt: &str, context: usize) -> Result<()> {
    let ids = text.tokenizer.encode(prompt).with_context(|| format!("--set prompt={prompt}"))?;
    ensure!(
        !ids.is_empty() && ids.len() < context,
        "--set prompt={prompt}: {} tokens; at least 1, and fewer than the context of {context}",
        ids.len()
    );
    Ok(())
}

/// What the n-gram model of the training documents pays for the test documents.
fn ngram(text: &Text) -> Result<Score> {
    let mut counted = 0;
    let training = documents(&text.train).take_while(|document| {
        counted += document.as_ref().map_or(0, Vec::len);
        counted <= NGRAM_TOKENS
    });
    let model = Ngram::train(NGRAM_ORDER, text.tokenizer.vocab_size(), training)?;
    Ok(model.score(documents(&text.test).collect::<Result<Vec<_>, _>>()?)?)
}

/// The tokens of a part's documents, one after the other.
fn documents(part: &Sequence) -> impl Iterator<Item = conditioned_data::Result<Vec<u32>>> + '_ {
    part.documents().iter().map(|&i| part.tokens().document(i))
}
