//! A language model: GPT-2 on a text.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use conditioned_data::{Preparation, TextConfig, TextSource, Tokenizer};
use conditioned_models::Architecture;
use conditioned_models::gpt2::Gpt2Config;
use conditioned_models::hugging_face::gpt2;
use conditioned_models::network::Network;
use conditioned_train::Length;
use serde::{Deserialize, Serialize};

use super::{Recipe, Shared, Training, at_least_one, unprepared};
use crate::arm::Method;
use crate::checkpoint::Checkpoint;
use crate::hub;
use crate::job::{Init, Job, TaskConfig};
use crate::plan::embedding_std;
use crate::results::Finished;
use crate::settings::Setting;
use crate::table::{Request, Stage, Table};
use crate::task::language::LanguageConfig;

/// Every number of a run on running text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LanguageRecipe {
    /// Token width C.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads.
    pub heads: usize,
    /// Tokens T of a window.
    pub context: usize,
    /// Whether the head is the token table.
    pub tied: bool,
    /// Dropout on the embedding and the residual branches.
    pub dropout: f64,
    /// `characters`; `bpe-V`, trained on the training documents; the path of a tokenizer.json, or of a folder
    /// with vocab.json and merges.txt; null takes that of the checkpoint.
    pub tokenizer: Option<String>,
    /// Generated stories; 0 with files.
    pub stories: usize,
    /// The line that separates documents of a text file; nothing is a blank line. JSONL files have
    /// theirs under `text`.
    pub separator: String,
    /// Share of the documents to tune on.
    pub tune: f64,
    /// Share of the documents to test on.
    pub test: f64,
    /// Windows of a micro-batch.
    pub batch_size: usize,
    /// Optimiser steps, a multiple of `evaluations`.
    pub steps: usize,
    /// Evaluations of the tuning slice on the way.
    pub evaluations: usize,
    /// Windows of the tuning slice that are evaluated.
    pub tune_windows: usize,
    /// Windows of the test documents that are evaluated.
    pub test_windows: usize,
    /// Windows of the test documents whose prefixes are continued by one token.
    pub prefix_windows: usize,
    /// Lengths of those prefixes.
    pub prefix_lengths: Vec<usize>,
    /// What the models write on from in the report.
    pub prompt: String,
    /// How the network is optimised.
    #[serde(flatten)]
    pub training: Training,
    /// What arms and search read.
    #[serde(flatten)]
    pub shared: Shared,
}

impl LanguageRecipe {
    /// Micro-batches of a run.
    fn micro_batches(&self) -> usize {
        self.steps * self.training.accumulate
    }
}

impl Recipe for LanguageRecipe {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn for_checkpoint(self) -> Self {
        // Its own sizes and tokenizer.
        Self { tokenizer: None, width: 0, depth: 0, heads: 0, ..self }
    }

    fn validate(&self) -> Result<()> {
        let Self { batch_size, steps, evaluations, context, prefix_lengths, .. } = self;
        at_least_one([
            ("batch_size", *batch_size),
            ("steps", *steps),
            ("accumulate", self.training.accumulate),
            ("evaluations", *evaluations),
            ("tune_windows", self.tune_windows),
            ("test_windows", self.test_windows),
            ("prefix_windows", self.prefix_windows),
        ])?;
        ensure!(
            steps.is_multiple_of(*evaluations),
            "--set steps={steps}: must be a multiple of evaluations, {evaluations}"
        );
        ensure!(
            prefix_lengths.iter().any(|length| length < context),
            "--set prefix_lengths: at least one below the context, {context}, is needed"
        );
        let beyond = prefix_lengths.iter().find(|length| !(1..=*context).contains(length));
        ensure!(
            beyond.is_none(),
            "--set prefix_lengths: {} is not between 1 and the context, {context}",
            beyond.unwrap_or(&0)
        );
        Ok(())
    }
}

/// The text of a run, and the checkpoint that it starts from.
pub struct LanguageData {
    text: TextConfig,
    /// What an n-gram model of the training tokens pays for the test documents.
    ngram_loss: f64,
    init: Option<(Checkpoint, Gpt2Config)>,
}

impl LanguageRecipe {
    /// The prototype's comparison: a GPT-2 of 800,000 parameters on the characters of a play (docs/LOG.md).
    pub fn prototype() -> Self {
        Self {
            width: 128,
            depth: 4,
            heads: 4,
            context: 128,
            tied: false,
            dropout: 0.0,
            tokenizer: Some("characters".to_string()),
            stories: 0,
            separator: String::new(),
            tune: 0.05,
            test: 0.1,
            batch_size: 24,
            steps: 500,
            evaluations: 10,
            tune_windows: 64,
            test_windows: 512,
            prefix_windows: 1366,
            prefix_lengths: vec![64, 96, 128],
            prompt: "ROMEO:".to_string(),
            training: Training {
                floor: 0.1,
                weight_decay: 0.1,
                beta2: 0.95,
                clip: Some(1.0),
                ..Training::default()
            },
            shared: Shared::default(),
        }
    }

    /// Checks that the arms can act in a causal model, before data are prepared.
    ///
    /// # Errors
    /// When an arm sees the future and may not, or does not go with a checkpoint.
    pub fn check<T: Table<Recipe = Self>>(
        request: &Request<'_, T>,
        allow_future_leak: bool,
    ) -> Result<()> {
        if let Some(folder) = request.init.map(Path::display) {
            let Self { width, depth, heads, .. } = *request.recipe;
            ensure!(
                (width, depth, heads) == (0, 0, 0) && request.recipe.shared.embedding_std.is_none(),
                "--set width, depth, heads or embedding_std: --init {folder} has its own; leave them out"
            );
            ensure!(
                !request.arms.iter().any(|arm| arm.method == Method::Init),
                "arm init draws a position table of its own, and --init {folder} has one; leave it out"
            );
        }
        for &arm in request.arms {
            // The vocabulary does not matter here.
            let network = match request.init {
                Some(_) => Gpt2Config::preset("gpt2")?,
                None => request.recipe.network(1, 0.0),
            };
            let plain = Setting::published(0.0);
            let conditioning = request.conditioning(arm, &plain, request.recipe.micro_batches())?;
            let leak = allow_future_leak;
            let network = Gpt2Config { conditioning, allow_future_leak: leak, ..network };
            network.validate().with_context(|| format!("arm {arm} (--allow-future-leak)"))?;
        }
        Ok(())
    }

    /// The text of a file, a folder or the hub, or generated stories, prepared in the data folder.
    ///
    /// # Errors
    /// When it cannot be read, is empty or too short, the tokenizer is missing, or a model cannot write on from
    /// the prompt.
    pub fn data<T: Table<Recipe = Self>>(
        request: &Request<'_, T>,
        data: Option<&Path>,
    ) -> Result<LanguageData> {
        let Self { context, tune, test, .. } = *request.recipe;
        let init = request.init.map(hub::model).transpose()?;
        let init = init.map(|folder| {
            let network = gpt2::read_config(&folder)?;
            let checkpoint = Checkpoint::read(&folder, &Network::Gpt2(network.clone()))?;
            anyhow::Ok((checkpoint, network))
        });
        let init = init.transpose()?;
        let source = match data {
            Some(path) => request.text(path, &request.recipe.separator)?,
            None => {
                let stories = request.recipe.stories as u64;
                ensure!(stories > 0, "--set stories=0: at least one is needed without --data");
                TextSource::stories(stories)
            }
        };
        let of_checkpoint = init.as_ref().map(|(init, _)| init.folder.display().to_string());
        let tokenizer = match (&request.recipe.tokenizer, of_checkpoint) {
            (Some(tokenizer), _) => tokenizer.clone(),
            (None, Some(folder)) => folder,
            (None, None) => anyhow::bail!("--set tokenizer=null: is for --init, which has its own"),
        };
        let how = Preparation { tokenizer: &tokenizer, tune, test, window: context };
        let text = TextConfig::prepare(&source, &how, &request.data_folder());
        let text = text.map_err(unprepared)?;
        if let Some((checkpoint, network)) = &init {
            let folder = checkpoint.folder.display();
            ensure!(
                context <= network.context,
                "--set context={context}: longer than the position table of {folder}, {}",
                network.context
            );
        }
        let loaded = text.load()?;
        if let Some((_, network)) = &init {
            loaded.tokenizer.check_rows(network.vocabulary)?;
            let largest = loaded.train.tokens().largest()?;
            loaded.tokenizer.check_ids(&[largest], network.vocabulary)?;
        }
        // A search reads no test data.
        if !request.first_stage_only || request.plan_only {
            let (count, tokens) = (request.recipe.prefix_windows, loaded.test.len());
            ensure!(
                tokens.saturating_sub(context) >= count,
                "--set prefix_windows={count}: the test part has {tokens} tokens, in which {} windows of {context} \
                 begin at places of their own; give more text, or fewer windows",
                tokens.saturating_sub(context)
            );
        }
        let rows = init.as_ref().map_or(text.vocabulary, |(_, network)| network.vocabulary);
        request.recipe.check_prompt(&loaded.tokenizer, rows)?;
        Ok(LanguageData { ngram_loss: loaded.ngram_loss()?, text, init })
    }

    /// Checks that a model can write on from the prompt, as it does at the end of a run: the prompt has a token,
    /// none that the tokenizer lacks, and does not fill the context.
    fn check_prompt(&self, tokenizer: &Tokenizer, rows: usize) -> Result<()> {
        let Self { prompt, context, .. } = self;
        let ids = tokenizer.encode_marked(prompt).with_context(|| {
            format!("--set prompt={prompt}: give a prompt that the tokenizer knows")
        })?;
        tokenizer.check_ids(&ids, rows).with_context(|| format!("--set prompt={prompt}"))?;
        ensure!(
            !ids.is_empty() && ids.len() < *context,
            "--set prompt={prompt}: {} tokens; at least 1, and fewer than the context of {context}",
            ids.len()
        );
        Ok(())
    }

    fn network(&self, vocabulary: usize, std: f64) -> Gpt2Config {
        Gpt2Config {
            vocabulary,
            context: self.context,
            width: self.width,
            depth: self.depth,
            heads: self.heads,
            dropout: self.dropout,
            token_std: std,
            position_std: std,
            tie_word_embeddings: self.tied,
            conditioning: Default::default(),
            allow_future_leak: false,
        }
    }

    /// What a cell trains; `allow_future_leak` lets an arm that is not causal.
    ///
    /// # Errors
    /// When a strength is unknown, or a model cannot write on from the prompt.
    pub fn job<T: Table<Recipe = Self>>(
        request: &Request<'_, T>,
        data: &LanguageData,
        stage: &Stage<'_>,
        allow_future_leak: bool,
    ) -> Result<Job> {
        let (recipe, LanguageData { text, ngram_loss, init }) = (request.recipe, data);
        let conditioning =
            request.conditioning(stage.cell.arm, &stage.setting, recipe.micro_batches())?;
        let drawn = recipe.network(text.vocabulary, embedding_std(stage.setting));
        let given = init.as_ref().map_or(drawn, |(_, network)| network.clone());
        let task = LanguageConfig {
            text: text.clone(),
            ngram_loss: *ngram_loss,
            window: recipe.context,
            batch_size: recipe.batch_size,
            tune_windows: recipe.tune_windows,
            test_windows: recipe.test_windows,
            prefix_windows: recipe.prefix_windows,
            prefix_lengths: recipe.prefix_lengths.clone(),
            prompt: recipe.prompt.clone(),
        };
        let length = Length::MicroBatches(recipe.micro_batches());
        Ok(Job {
            network: Network::Gpt2(Gpt2Config {
                dropout: recipe.dropout,
                conditioning,
                allow_future_leak: allow_future_leak && !conditioning.method.is_causal(),
                ..given
            }),
            init: init.as_ref().map(|(checkpoint, _)| Init::HuggingFace(checkpoint.clone())),
            task: TaskConfig::Language(task),
            fit: recipe.training.fit(stage, length, recipe.micro_batches() / recipe.evaluations),
        })
    }

    /// What a reader must know of the numbers of a language model.
    pub fn notes(results: &[Finished]) -> Vec<String> {
        let metric = |name| results.first().and_then(|run| run.metric(name)).unwrap_or(f64::NAN);
        let (ngram, tokens_per_byte) = (metric("ngram_loss"), metric("test_tokens_per_byte"));
        vec![format!(
            "Loss: of windows of test documents, all positions. Next-token loss: of one token after fixed \
             prefixes, which is what generation uses. Leak gap: how much smaller the loss of the same tokens is \
             inside whole windows, where a model that sees the future finds it. κ: median over sequences, and of \
             all tokens stacked. A 5-gram model of the training text (5 million tokens at most) pays \
             {ngram:.3} nats per token, {:.3} bits per byte, for all test documents. tokens/s: one thread, alone.",
            ngram * tokens_per_byte / std::f64::consts::LN_2
        )]
    }
}
