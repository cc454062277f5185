//! Pre-training of an encoder on running text, and its fine-tuning on labelled texts.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use conditioned_data::{
    LabelledData, LabelledSource, Preparation, Task, TextConfig, TextSource, premises,
};
use conditioned_models::Architecture;
use conditioned_models::bert::BertConfig;
use conditioned_models::conditioning::ConditioningConfig;
use conditioned_models::crammed_bert::CrammedBertConfig;
use conditioned_models::encoder::EncoderConfig;
use conditioned_models::network::Network;
use conditioned_nn::Precision;
use conditioned_train::{AdamWConfig, FitConfig, Length, Schedule, Shape};
use serde::{Deserialize, Serialize};

use super::{Recipe, Shared, Training, at_least_one, unprepared};
use crate::column::DASH;
use crate::hub;
use crate::job::{Init, Job, TaskConfig};
use crate::plan::embedding_std;
use crate::results::Finished;
use crate::table::{Request, Stage, Table};
use crate::task::masked::MaskedConfig;
use crate::task::texts::{TextsConfig, TokenizerFile};

/// `[CLS]`, a token of each text, `[SEP]` behind each.
const SHORTEST: usize = 5;

/// Every number of a pre-training and its fine-tunings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderRecipe {
    /// Token width C.
    pub width: usize,
    /// Layers.
    pub depth: usize,
    /// Heads.
    pub heads: usize,
    /// Hidden width of the feed-forward.
    pub hidden: usize,
    /// Deviation of the linear layers at initialisation.
    pub linear_std: f64,
    /// The longest sequence that the model takes.
    pub context: usize,
    /// `wordpiece-V`, trained on the training documents, or the path of a tokenizer with `[MASK]`.
    pub tokenizer: String,
    /// Generated documents; 0 with files.
    pub documents: usize,
    /// The line that separates documents of a text file; nothing is a blank line.
    pub separator: String,
    /// Share of the documents to tune on.
    pub tune: f64,
    /// Share of the documents to test on.
    pub test: f64,
    /// Tokens T of a window of pre-training.
    pub window: usize,
    /// Share of a window's tokens that are hidden.
    pub mask: f64,
    /// Windows of a micro-batch.
    pub batch_size: usize,
    /// The budget in tokens: micro-batches of pre-training, a multiple of `evaluations`.
    pub micro_batches: usize,
    /// Micro-batches of a step, once the ramp is over. Several processes share them.
    pub accumulate: usize,
    /// Part of the budget over which the batch grows from one micro-batch.
    pub batch_ramp: f64,
    /// First learning rate over the peak.
    pub base: f64,
    /// Part of the budget over which the learning rate falls to zero.
    pub falloff: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// AdamW's second decay.
    pub beta2: f64,
    /// AdamW's epsilon in pre-training.
    pub eps: f64,
    /// Largest global gradient norm in pre-training; null does not clip.
    pub clip: Option<f64>,
    /// Evaluations of the tuning slice on the way.
    pub evaluations: usize,
    /// Windows of an evaluation, at most, rounded up to whole micro-batches.
    pub evaluation_windows: usize,
    /// Generated pairs to train on; 0 with files.
    pub task_rows: usize,
    /// Generated pairs to report on; 0 with files.
    pub task_dev_rows: usize,
    /// The first generated pair: others to choose the numbers below on.
    pub first_pair: usize,
    /// Passes over the training texts of a task.
    pub task_epochs: usize,
    /// Texts of a micro-batch.
    pub task_batch_size: usize,
    /// Micro-batches of a step of fine-tuning. Several processes share them.
    pub task_accumulate: usize,
    /// Peak learning rate, the same for all arms and tasks.
    pub task_learning_rate: f64,
    /// Part of all steps that warms up; then a cosine to zero.
    pub task_warmup: f64,
    /// Tokens of the longest text, special ones included.
    pub task_max_length: usize,
    /// Dropout in fine-tuning; pre-training has none.
    pub task_dropout: f64,
    /// What arms and search read.
    #[serde(flatten)]
    pub shared: Shared,
}

impl Recipe for EncoderRecipe {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn validate(&self) -> Result<()> {
        let Self { evaluations, micro_batches, window, mask, context, .. } = *self;
        let Self { task_max_length, task_dropout, .. } = *self;
        at_least_one([
            ("evaluations", evaluations),
            ("evaluation_windows", self.evaluation_windows),
            ("batch_size", self.batch_size),
            ("micro_batches", micro_batches),
            ("task_epochs", self.task_epochs),
            ("task_batch_size", self.task_batch_size),
        ])?;
        ensure!(
            micro_batches.is_multiple_of(evaluations),
            "--set micro_batches={micro_batches}: must be a multiple of evaluations, {evaluations}"
        );
        for (key, tokens) in [("window", window), ("task_max_length", task_max_length)] {
            ensure!(tokens <= context, "--set {key}={tokens}: longer than the context, {context}");
        }
        ensure!(
            task_max_length >= SHORTEST,
            "--set task_max_length={task_max_length}: a pair with its special tokens has at least {SHORTEST}"
        );
        ensure!(
            (0.0..1.0).contains(&task_dropout),
            "--set task_dropout={task_dropout}: must be in [0, 1)"
        );
        ensure!(mask > 0.0 && mask < 1.0, "--set mask={mask}: must be above 0 and below 1");
        self.task_fit(0).validate().context("fine-tuning")
    }
}

/// The texts of all stages.
pub struct EncoderData {
    text: TextConfig,
    tasks: Vec<LabelledData>,
}

impl EncoderData {
    /// The names of the stages: pre-training, then the tasks.
    pub fn stages(&self) -> Vec<String> {
        let tasks = self.tasks.iter().filter_map(|texts| Some(texts.task()?.name().to_string()));
        std::iter::once("pre-training".to_string()).chain(tasks).collect()
    }
}

/// The first generated document: far from the pairs, to which it would tell the answers.
const FIRST_DOCUMENT: usize = 40_000;

impl EncoderRecipe {
    /// Generated text and pairs, a Crammed BERT of 95,000 parameters: half a minute a run.
    pub fn small() -> Self {
        Self {
            width: 64,
            depth: 2,
            heads: 8,
            hidden: 256,
            linear_std: 0.08,
            context: 48,
            tokenizer: "wordpiece-200".to_string(),
            documents: 40_000,
            separator: "<|endoftext|>".to_string(),
            tune: 0.02,
            test: 0.02,
            window: 32,
            mask: 0.25,
            batch_size: 16,
            micro_batches: 3600,
            accumulate: 1,
            batch_ramp: 0.0,
            base: 0.25,
            falloff: 0.25,
            weight_decay: 0.01,
            beta2: 0.98,
            eps: 1e-12,
            clip: Some(0.5),
            evaluations: 10,
            evaluation_windows: 512,
            task_rows: 6000,
            task_dev_rows: 1000,
            first_pair: 0,
            task_epochs: 6,
            task_batch_size: 32,
            task_accumulate: 1,
            task_learning_rate: 2e-3,
            task_warmup: 0.3,
            task_max_length: 48,
            task_dropout: 0.0,
            shared: Shared { strength: Some(1.0), ..Shared::default() },
        }
    }

    /// The text of a file, a folder or the hub with the tasks of GLUE in `data`; or generated text and pairs,
    /// which must not tell each other's answers.
    ///
    /// # Errors
    /// When files are missing or not as they should be, or the pairs reach into the text.
    pub fn data<T: Table<Recipe = Self>>(
        request: &Request<'_, T>,
        corpus: Option<&Path>,
        data: Option<&Path>,
    ) -> Result<EncoderData> {
        let Self { documents, tune, test, window, .. } = *request.recipe;
        let Self { first_pair: first, task_rows: train, task_dev_rows: dev, .. } = *request.recipe;
        let source = match corpus {
            Some(path) => request.text(path, &request.recipe.separator)?,
            None => {
                let rows = FIRST_DOCUMENT..FIRST_DOCUMENT + documents;
                let pairs = first..first + train + dev;
                ensure!(
                    pairs.end <= rows.start || pairs.start >= rows.end,
                    "--set first_pair={first}: the pairs {pairs:?} reach into the pre-training text, which \
                     starts at {FIRST_DOCUMENT} and would tell their answers"
                );
                let name = format!("{documents} generated premises and what follows");
                ensure!(
                    documents > 0,
                    "--set documents=0: at least one is needed without --corpus"
                );
                let seed = LabelledSource::SEED;
                TextSource::generated(name, move || premises(seed, rows.clone()))
            }
        };
        let tasks = match (data, corpus) {
            // A search is judged by hidden words alone.
            _ if request.first_stage_only => Vec::new(),
            (Some(folder), _) => {
                LabelledData::find_glue(hub::glue(folder, &Task::ALL)?).context("--data")?
            }
            (None, Some(_)) => {
                bail!("preset {} needs --data with the folders of GLUE's tasks", request.preset)
            }
            (None, None) if train == 0 => Vec::new(),
            (None, None) => {
                let pairs = LabelledSource::Generated { first, train, dev };
                vec![LabelledData::new(pairs, None, 0.0)?]
            }
        };
        let tokenizer = &request.recipe.tokenizer;
        let how = Preparation { tokenizer, tune, test, window };
        let text =
            TextConfig::prepare(&source, &how, &request.data_folder()).map_err(unprepared)?;
        Ok(EncoderData { text, tasks })
    }

    /// What a cell trains: the pre-training, and then a task a stage. `crammed` is Crammed BERT, else it is the
    /// published BERT.
    ///
    /// # Errors
    /// When a strength is negative or not finite.
    pub fn job<T: Table<Recipe = Self>>(
        request: &Request<'_, T>,
        crammed: bool,
        data: &EncoderData,
        stage: &Stage<'_>,
    ) -> Result<Job> {
        let pretraining = Self::pretraining(request, crammed, &data.text, stage)?;
        let Some(task) = stage.number.checked_sub(1) else { return Ok(pretraining) };
        let task = data.tasks.get(task).context("no such task")?;
        Self::fine_tuning(request, pretraining, &data.text, task, stage)
    }

    /// The network of pre-training, without dropout, as Cramming has it; `crammed` is Crammed BERT, else it is
    /// the published BERT.
    fn network(&self, crammed: bool, vocabulary: usize, table_std: f64) -> EncoderConfig {
        let Self { context, width, depth, heads, hidden, linear_std, .. } = *self;
        let (dropout, conditioning) = (0.0, Default::default());
        match crammed {
            true => EncoderConfig::CrammedBert(CrammedBertConfig {
                vocabulary,
                context,
                width,
                depth,
                heads,
                hidden,
                dropout,
                table_std,
                linear_std,
                conditioning,
            }),
            false => EncoderConfig::Bert(BertConfig {
                vocabulary,
                context,
                types: 2,
                width,
                depth,
                heads,
                hidden,
                dropout,
                table_std,
                linear_std,
                conditioning,
            }),
        }
    }

    fn pretraining<T: Table<Recipe = Self>>(
        request: &Request<'_, T>,
        crammed: bool,
        text: &TextConfig,
        stage: &Stage<'_>,
    ) -> Result<Job> {
        let recipe = request.recipe;
        let Self { weight_decay, beta2, eps, clip, micro_batches, evaluations, .. } = *recipe;
        let Self { base, falloff, accumulate, batch_ramp, window, batch_size, mask, .. } = *recipe;
        let std = embedding_std(stage.setting);
        let mut network = recipe.network(crammed, text.vocabulary, std);
        network.set_conditioning(request.conditioning(
            stage.cell.arm,
            &stage.setting,
            micro_batches,
        )?);
        let training = Training { weight_decay, beta2, eps, clip, ..Training::default() };
        let length = Length::MicroBatches(micro_batches);
        Ok(Job {
            network: Network::Encoder(network),
            init: None,
            task: TaskConfig::Masked(MaskedConfig {
                text: text.clone(),
                window,
                batch_size,
                mask,
                evaluation_windows: recipe.evaluation_windows,
            }),
            fit: FitConfig {
                accumulate,
                ramp: batch_ramp,
                schedule: Schedule {
                    peak: stage.setting.learning_rate,
                    shape: Shape::Triangle { base, falloff },
                },
                ..training.fit(stage, length, micro_batches / evaluations)
            },
        })
    }

    /// Fine-tuning on a task: one setting for all of them (Cramming's `GLUE_sane`).
    fn task_fit(&self, seed: u64) -> FitConfig {
        let shape = Shape::Cosine { warmup: self.task_warmup, floor: 0.0 };
        FitConfig {
            length: Length::Epochs(self.task_epochs),
            accumulate: self.task_accumulate,
            ramp: 0.0,
            schedule: Schedule { peak: self.task_learning_rate, shape },
            adamw: AdamWConfig { beta2: self.beta2, eps: 1e-6, ..AdamWConfig::default() },
            muon: None,
            groups: conditioned_train::GroupRule::new(0.0, conditioned_models::EMBEDDING_TABLES),
            clip: None,
            ema: None,
            evaluate_every: self.task_epochs,
            checkpoint_every: 1,
            probe_every: None,
            precision: Precision::Full,
            seed,
        }
    }

    /// The fine-tuning of what a pre-training left.
    fn fine_tuning<T: Table<Recipe = Self>>(
        request: &Request<'_, T>,
        pretraining: Job,
        text: &TextConfig,
        task: &LabelledData,
        stage: &Stage<'_>,
    ) -> Result<Job> {
        let recipe = request.recipe;
        let Network::Encoder(mut network) = pretraining.network else { bail!("not an encoder") };
        network.set_dropout(recipe.task_dropout);
        // What was pre-trained with conditioned tokens is used to them.
        network.set_conditioning(ConditioningConfig { ramp_steps: 0, ..network.conditioning() });
        Ok(Job {
            network: Network::Encoder(network),
            init: stage.earlier.clone().map(Init::Stage),
            task: TaskConfig::Texts(TextsConfig {
                data: task.clone(),
                tokenizer: TokenizerFile::read(text.tokenizer_file())?,
                batch_size: recipe.task_batch_size,
                max_length: recipe.task_max_length,
                search: false,
            }),
            fit: recipe.task_fit(stage.cell.seed),
        })
    }

    /// What a reader must know of the numbers of a pre-training and its tasks.
    pub fn notes(results: &[Finished]) -> Vec<String> {
        let Some(first) = results.first() else { return Vec::new() };
        let tasks = first.later.iter().map(|(task, data)| {
            let count = |what: &str| first.metric(&format!("{task}/{what}")).unwrap_or_default();
            // A task may have several dev sets.
            let cut = truncated(first, task);
            let (rows, skipped) = (count("train_rows"), count("skipped"));
            format!("{task}: {data}, {rows} to train on, {cut} texts cut, {skipped} unusable")
        });
        vec![format!(
            "Tasks, on their dev sets after the last step, in %: accuracy (MNLI: mean of both sets; MRPC, QQP: \
             mean of accuracy and F1; STS-B: of Pearson and Spearman; CoLA: Matthews). {}. {DASH}: not there. \
             Budget: as many tokens, or as many as fit into the time of the baseline, measured once. Seconds: of \
             pre-training, one thread, alone. Loss: nats per hidden word of test documents. κ: median over \
             windows of what enters the first layer. The paper: GLUE, a day of one GPU; its STS-B follows from its \
             average.",
            tasks.collect::<Vec<_>>().join("; ")
        )]
    }
}

/// The texts of a task that were cut, in all of its sets.
fn truncated(run: &Finished, task: &str) -> f64 {
    let of_task = |name: &str| name.strip_prefix(task).is_some_and(|rest| rest.starts_with('/'));
    let cut = |name: &str| of_task(name) && name.ends_with("_truncated");
    run.metrics.iter().filter(|(name, _)| cut(name)).filter_map(|(_, count)| *count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::parse;

    #[test]
    fn texts_that_were_cut_are_counted_in_every_set_of_their_task() {
        let csv = include_str!("../../table4_glue/results/short/results.csv");
        let mut run = parse(csv).unwrap().swap_remove(0);
        for (name, count) in [
            ("mnli/train_truncated", 4.0),
            ("mnli/matched_truncated", 2.0),
            ("mnli/mismatched_truncated", 1.0),
            ("mnli/train_rows", 9.0),
            ("mnli2/train_truncated", 30.0),
        ] {
            run.metrics.insert(name.to_string(), Some(count));
        }
        assert_eq!(truncated(&run, "mnli"), 7.0);
    }
}
