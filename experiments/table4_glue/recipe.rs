//! Presets: every number of a run, by name.

use anyhow::{Result, ensure};
use conditioned_models::bert::BertConfig;
use conditioned_models::conditioning::{ConditioningConfig, Placement};
use conditioned_models::crammed_bert::CrammedBertConfig;
use conditioned_train::{AdamWConfig, FitConfig, GroupRule, Schedule, Shape};
use experiments::encoder::EncoderConfig;
use experiments::named;
use experiments::search::{PUBLISHED_STD, Setting};
use serde::{Deserialize, Serialize};

use crate::arm::{Arm, Model};

/// A named recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Preset {
    /// Seconds: a small network on some generated text, for tests.
    Smoke,
    /// Minutes: generated text and generated pairs.
    Short,
    /// Hours: `--corpus` and the tasks in `--data`.
    GlueCpu,
    /// The published Crammed BERT.
    Paper,
}

impl Preset {
    pub(crate) const ALL: [Self; 4] = [Self::Smoke, Self::Short, Self::GlueCpu, Self::Paper];

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Short => "short",
            Self::GlueCpu => "glue-cpu",
            Self::Paper => "paper",
        }
    }

    /// Whether text and task are generated, and no files are taken.
    pub(crate) fn is_generated(self) -> bool {
        matches!(self, Self::Smoke | Self::Short)
    }

    /// Seeds per cell unless another number is asked for.
    pub(crate) fn seeds(self) -> u64 {
        match self {
            Self::Smoke => 2,
            Self::Short | Self::GlueCpu => 3,
            // The published numbers are medians of five.
            Self::Paper => 5,
        }
    }

    /// The recipe.
    pub(crate) fn recipe(self) -> Recipe {
        let short = Recipe {
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
            strength: 1.0,
            placement: None,
            rate: None,
            table_rate: None,
            table_std: None,
            task_rows: 6000,
            task_dev_rows: 1000,
            first_pair: 0,
            task_epochs: 6,
            task_batch_size: 32,
            task_rate: 2e-3,
            task_warmup: 0.3,
            task_longest: 48,
            task_dropout: 0.0,
        };
        match self {
            Self::Smoke => Recipe {
                width: 16,
                hidden: 32,
                heads: 2,
                documents: 400,
                tune: 0.1,
                test: 0.1,
                micro_batches: 24,
                accumulate: 2,
                batch_ramp: 0.6,
                evaluations: 2,
                evaluation_windows: 16,
                task_rows: 40,
                task_dev_rows: 20,
                task_epochs: 2,
                ..short
            },
            Self::Short => short,
            Self::GlueCpu => Recipe {
                width: 128,
                depth: 4,
                heads: 4,
                hidden: 512,
                linear_std: 0.05,
                context: 128,
                window: 128,
                tokenizer: "wordpiece-4096".to_string(),
                documents: 0,
                micro_batches: 6000,
                task_rows: 0,
                task_dev_rows: 0,
                task_epochs: 5,
                task_batch_size: 16,
                task_rate: 1e-3,
                task_warmup: 0.1,
                task_longest: 128,
                task_dropout: 0.1,
                ..short
            },
            Self::Paper => Recipe {
                width: 768,
                depth: 16,
                heads: 12,
                hidden: 3072,
                linear_std: 0.02,
                context: 128,
                window: 128,
                tokenizer: "wordpiece-32768".to_string(),
                documents: 0,
                batch_size: 128,
                // The upper limit of the published configuration, whose real budget is a day of one GPU.
                micro_batches: 900_000,
                accumulate: 64,
                batch_ramp: 0.6,
                evaluations: 100,
                evaluation_windows: 4096,
                rate: Some(1e-3),
                task_rows: 0,
                task_dev_rows: 0,
                task_epochs: 5,
                task_batch_size: 16,
                task_rate: 4e-5,
                task_warmup: 0.1,
                task_longest: 128,
                task_dropout: 0.1,
                ..short
            },
        }
    }
}

named!(Preset, "preset");

/// `[CLS]`, a token of each text, `[SEP]` behind each.
const SHORTEST: usize = 5;

/// Every number of a run but for the arm's own: the keys of `--set`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Token width C.
    pub(crate) width: usize,
    /// Layers.
    pub(crate) depth: usize,
    /// Heads.
    pub(crate) heads: usize,
    /// Hidden width of the feed-forward.
    pub(crate) hidden: usize,
    /// Deviation of the linear layers at initialisation.
    pub(crate) linear_std: f64,
    /// The longest sequence that the model takes.
    pub(crate) context: usize,
    /// `wordpiece-V`, trained on the training documents, or the path of a tokenizer with `[MASK]`.
    pub(crate) tokenizer: String,
    /// Generated documents; 0 with --corpus.
    pub(crate) documents: usize,
    /// The line that separates documents of --corpus; nothing is a blank line.
    pub(crate) separator: String,
    /// Share of the documents to tune on.
    pub(crate) tune: f64,
    /// Share of the documents to test on.
    pub(crate) test: f64,
    /// Tokens T of a window of pre-training.
    pub(crate) window: usize,
    /// Share of a window's tokens that are hidden.
    pub(crate) mask: f64,
    /// Windows of a micro-batch.
    pub(crate) batch_size: usize,
    /// The budget in tokens: micro-batches of pre-training, a multiple of `evaluations`.
    pub(crate) micro_batches: usize,
    /// Micro-batches of a step, once the ramp is over.
    pub(crate) accumulate: usize,
    /// Part of the budget over which the batch grows from one micro-batch.
    pub(crate) batch_ramp: f64,
    /// First rate over peak rate.
    pub(crate) base: f64,
    /// Part of the budget over which the rate falls to zero.
    pub(crate) falloff: f64,
    /// Decoupled weight decay of matrices.
    pub(crate) weight_decay: f64,
    /// AdamW's second decay.
    pub(crate) beta2: f64,
    /// AdamW's epsilon in pre-training.
    pub(crate) eps: f64,
    /// Largest global gradient norm in pre-training; null does not clip.
    pub(crate) clip: Option<f64>,
    /// Evaluations of the tuning slice on the way.
    pub(crate) evaluations: usize,
    /// Windows of an evaluation, at most.
    pub(crate) evaluation_windows: usize,
    /// Strength t of the conditioned arms.
    pub(crate) strength: f64,
    /// before-position, after-position or after-norm; null is each arm's best place.
    pub(crate) placement: Option<Placement>,
    /// Peak rate of pre-training for every arm; null takes the searched ones.
    pub(crate) rate: Option<f64>,
    /// Rate of the word table over it; null takes the searched ones.
    pub(crate) table_rate: Option<f64>,
    /// Deviation of the tables at initialisation; null takes the searched ones.
    pub(crate) table_std: Option<f64>,
    /// Generated pairs to train on; 0 with --data.
    pub(crate) task_rows: usize,
    /// Generated pairs to report on; 0 with --data.
    pub(crate) task_dev_rows: usize,
    /// The first generated pair: others to choose the numbers below on.
    pub(crate) first_pair: usize,
    /// Passes over the training texts of a task.
    pub(crate) task_epochs: usize,
    /// Texts per step.
    pub(crate) task_batch_size: usize,
    /// Peak rate, the same for all arms and tasks.
    pub(crate) task_rate: f64,
    /// Part of all steps that warms up; then a cosine to zero.
    pub(crate) task_warmup: f64,
    /// Tokens of the longest text, special ones included.
    pub(crate) task_longest: usize,
    /// Dropout in fine-tuning; pre-training has none.
    pub(crate) task_dropout: f64,
}

impl Recipe {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// Names the key at fault.
    pub(crate) fn validate(&self) -> Result<()> {
        for (key, count) in [
            ("evaluations", self.evaluations),
            ("evaluation_windows", self.evaluation_windows),
            ("batch_size", self.batch_size),
            ("micro_batches", self.micro_batches),
            ("task_epochs", self.task_epochs),
            ("task_batch_size", self.task_batch_size),
        ] {
            ensure!(count > 0, "--set {key}=0: at least one is needed");
        }
        ensure!(
            self.micro_batches.is_multiple_of(self.evaluations),
            "--set micro_batches={}: must be a multiple of evaluations, {}",
            self.micro_batches,
            self.evaluations
        );
        for (key, tokens) in [("window", self.window), ("task_longest", self.task_longest)] {
            ensure!(
                tokens <= self.context,
                "--set {key}={tokens}: longer than the context, {}",
                self.context
            );
        }
        ensure!(
            self.task_longest >= SHORTEST,
            "--set task_longest={}: a pair with its special tokens has at least {SHORTEST}",
            self.task_longest
        );
        ensure!(
            (0.0..1.0).contains(&self.task_dropout),
            "--set task_dropout={}: must be in [0, 1)",
            self.task_dropout
        );
        ensure!(
            self.mask > 0.0 && self.mask < 1.0,
            "--set mask={}: must be above 0 and below 1",
            self.mask
        );
        ensure!(self.strength.is_finite(), "--set strength={}: must be finite", self.strength);
        self.fine_tuning(0).validate()?;
        Ok(())
    }

    /// The network of pre-training over a vocabulary, without dropout, as Cramming has it.
    pub(crate) fn network(
        &self,
        model: Model,
        conditioning: ConditioningConfig,
        vocabulary: usize,
        table_std: f64,
    ) -> EncoderConfig {
        let Self { context, width, depth, heads, hidden, linear_std, .. } = *self;
        let dropout = 0.0;
        match model {
            Model::CrammedBert => EncoderConfig::CrammedBert(CrammedBertConfig {
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
            Model::Bert => EncoderConfig::Bert(BertConfig {
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

    /// Pre-training at a setting over `micro_batches`. An epoch of it is the way between two evaluations.
    pub(crate) fn pretraining(&self, setting: Setting, seed: u64) -> FitConfig {
        FitConfig {
            epochs: self.evaluations,
            accumulate: self.accumulate,
            ramp: self.batch_ramp,
            schedule: Schedule {
                peak: setting.rate,
                shape: Shape::Triangle { base: self.base, falloff: self.falloff },
            },
            adamw: AdamWConfig { beta2: self.beta2, eps: self.eps, ..AdamWConfig::default() },
            groups: GroupRule {
                weight_decay: self.weight_decay,
                table_rate: setting.table_rate,
                ..GroupRule::default()
            },
            clip: self.clip,
            ema: None,
            evaluate_every: 1,
            checkpoint_every: 1,
            seed,
        }
    }

    /// Fine-tuning on a task: one setting for all of them (Cramming's `GLUE_sane`).
    pub(crate) fn fine_tuning(&self, seed: u64) -> FitConfig {
        FitConfig {
            epochs: self.task_epochs,
            accumulate: 1,
            ramp: 0.0,
            schedule: Schedule {
                peak: self.task_rate,
                shape: Shape::Cosine { warmup: self.task_warmup, floor: 0.0 },
            },
            adamw: AdamWConfig { beta2: self.beta2, eps: 1e-6, ..AdamWConfig::default() },
            groups: GroupRule { weight_decay: 0.0, ..GroupRule::default() },
            clip: None,
            ema: None,
            evaluate_every: self.task_epochs,
            checkpoint_every: 1,
            seed,
        }
    }
}

/// The settings that an arm is searched over, the same for every arm: all rates with the published
/// tables, with larger ones, and with a larger rate of the tables.
pub(crate) fn grid(preset: Preset) -> Vec<Setting> {
    let (rates, tables): (&[f64], &[(f64, f64)]) = match preset {
        Preset::Smoke => (&[3e-3], &[(1.0, PUBLISHED_STD), (1.0, 0.1)]),
        Preset::Paper => (&[5e-4, 1e-3, 2e-3], &[(1.0, PUBLISHED_STD), (1.0, 0.1), (1.0, 0.3)]),
        Preset::Short | Preset::GlueCpu => (
            &[4e-3, 8e-3, 1.6e-2],
            &[(1.0, PUBLISHED_STD), (1.0, 0.1), (1.0, 0.3), (4.0, PUBLISHED_STD)],
        ),
    };
    let settings = rates.iter().flat_map(|&rate| {
        let setting = move |&(table_rate, std)| Setting { rate, table_rate, table_std: Some(std) };
        tables.iter().map(setting)
    });
    settings.collect()
}

/// The arms that run unless others are asked for: right in front of a layer norm, where pooled
/// conditioning acts, norm-matched tokens are the baseline.
pub(crate) const ARMS: &[Arm] = &[Arm::Baseline, Arm::PerSequence, Arm::Pooled];
