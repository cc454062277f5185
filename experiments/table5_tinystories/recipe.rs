//! Presets: every number of a run, by name.

use anyhow::{Result, ensure};
use conditioned_models::conditioning::Placement;
use conditioned_models::gpt2::Gpt2Config;
use conditioned_train::{AdamWConfig, FitConfig, GroupRule, Schedule, Shape};
use experiments::named;
use experiments::search::Setting;
use serde::{Deserialize, Serialize};

use crate::arm::Arm;

/// A named recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Preset {
    /// Seconds: a small network on some generated stories, for tests.
    Smoke,
    /// Minutes: generated stories.
    Short,
    /// The prototype's comparison: characters of a play, `--data` tiny Shakespeare.
    Shakespeare,
    /// An hour: `--data` real stories, a few MiB of them.
    TinystoriesCpu,
    /// A public model of the paper's loss: 6 layers, width 384, GPT-2's tokenizer.
    Paper,
    /// GPT-2 with its 124 million parameters.
    PaperGpt2,
}

impl Preset {
    pub(crate) const ALL: [Self; 6] = [
        Self::Smoke,
        Self::Short,
        Self::Shakespeare,
        Self::TinystoriesCpu,
        Self::Paper,
        Self::PaperGpt2,
    ];

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Short => "short",
            Self::Shakespeare => "shakespeare",
            Self::TinystoriesCpu => "tinystories-cpu",
            Self::Paper => "paper",
            Self::PaperGpt2 => "paper-gpt2",
        }
    }

    /// Whether it trains on generated stories, and takes no data.
    pub(crate) fn is_generated(self) -> bool {
        matches!(self, Self::Smoke | Self::Short)
    }

    /// The arms that run unless others are asked for.
    pub(crate) fn arms(self) -> &'static [Arm] {
        match self {
            Self::Shakespeare => &[Arm::Baseline, Arm::Pooled],
            // `init` is on request: no gain was seen, and it costs a fifth of the time.
            Self::Short => &[Arm::Baseline, Arm::Pooled, Arm::Table, Arm::NormMatched],
            _ => &[Arm::Baseline, Arm::Init, Arm::Pooled, Arm::Table, Arm::NormMatched],
        }
    }

    /// Seeds per cell unless another number is asked for.
    pub(crate) fn seeds(self) -> u64 {
        match self {
            Self::Smoke => 2,
            Self::Shakespeare => 5,
            Self::Short | Self::TinystoriesCpu | Self::Paper => 3,
            Self::PaperGpt2 => 1,
        }
    }

    /// The recipe.
    pub(crate) fn recipe(self) -> Recipe {
        // The prototype: docs/LOG.md.
        let shakespeare = Recipe {
            width: 128,
            depth: 4,
            heads: 4,
            context: 128,
            tied: false,
            dropout: 0.0,
            tokenizer: "characters".to_string(),
            stories: 0,
            separator: String::new(),
            tune: 0.05,
            test: 0.1,
            batch_size: 24,
            steps: 500,
            evaluations: 10,
            warmup: 0.1,
            floor: 0.1,
            weight_decay: 0.1,
            beta2: 0.95,
            clip: Some(1.0),
            strength: 0.3,
            table_strength: 0.3,
            momentum: 0.1,
            placement: Placement::AfterPosition,
            rate: None,
            table_rate: None,
            table_std: None,
            tune_windows: 64,
            test_windows: 512,
            prefix_windows: 1366,
            prefix_lengths: vec![64, 96, 128],
            prompt: "ROMEO:".to_string(),
        };
        let short = Recipe {
            width: 64,
            depth: 4,
            heads: 4,
            tied: true,
            tokenizer: "bpe-512".to_string(),
            stories: 4000,
            separator: "<|endoftext|>".to_string(),
            batch_size: 8,
            steps: 800,
            strength: 1.0,
            prefix_lengths: vec![16, 48, 96],
            prompt: "Once upon a time".to_string(),
            ..shakespeare.clone()
        };
        match self {
            Self::Smoke => Recipe {
                width: 16,
                depth: 2,
                heads: 2,
                context: 32,
                tokenizer: "bpe-300".to_string(),
                stories: 60,
                steps: 12,
                evaluations: 3,
                test_windows: 32,
                prefix_windows: 16,
                prefix_lengths: vec![4, 32],
                ..short
            },
            Self::Short => short,
            Self::Shakespeare => shakespeare,
            Self::TinystoriesCpu => Recipe {
                width: 128,
                context: 256,
                tokenizer: "bpe-2048".to_string(),
                stories: 0,
                steps: 2500,
                prefix_lengths: vec![32, 96, 224],
                ..short
            },
            Self::Paper => Recipe {
                width: 384,
                depth: 6,
                heads: 6,
                context: 128,
                dropout: 0.1,
                tokenizer: "gpt2".to_string(),
                stories: 0,
                batch_size: 1024,
                steps: 20_000,
                evaluations: 40,
                warmup: 0.05,
                floor: 0.0,
                clip: Some(0.5),
                rate: Some(1e-4),
                test_windows: 4096,
                prefix_lengths: vec![32, 64, 128],
                ..short
            },
            Self::PaperGpt2 => Recipe {
                width: 768,
                depth: 12,
                heads: 12,
                context: 1024,
                dropout: 0.1,
                tokenizer: "gpt2".to_string(),
                stories: 0,
                batch_size: 64,
                steps: 10_000,
                evaluations: 40,
                warmup: 0.05,
                rate: Some(6e-4),
                test_windows: 1024,
                prefix_lengths: vec![128, 384, 896],
                ..short
            },
        }
    }
}

named!(Preset, "preset");

/// Every number of a run but for the arm's own: the keys of `--set`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Token width C.
    pub(crate) width: usize,
    /// Blocks.
    pub(crate) depth: usize,
    /// Heads.
    pub(crate) heads: usize,
    /// Tokens T of a window.
    pub(crate) context: usize,
    /// Whether the head is the token table.
    pub(crate) tied: bool,
    /// Dropout on the embedding and the residual branches.
    pub(crate) dropout: f64,
    /// `characters`; `bpe-V`, trained on the training documents; or the path of a tokenizer.json
    /// or of a folder with vocab.json and merges.txt. The paper's `gpt2` must be given so.
    pub(crate) tokenizer: String,
    /// Generated stories; 0 with --data.
    pub(crate) stories: usize,
    /// The line that separates documents of --data; nothing is a blank line. JSONL files have
    /// theirs under `text`.
    pub(crate) separator: String,
    /// Share of the documents to tune on.
    pub(crate) tune: f64,
    /// Share of the documents to test on.
    pub(crate) test: f64,
    /// Windows per step.
    pub(crate) batch_size: usize,
    /// Optimiser steps, a multiple of `evaluations`.
    pub(crate) steps: usize,
    /// Evaluations of the tuning slice on the way.
    pub(crate) evaluations: usize,
    /// Part of all steps that warms up.
    pub(crate) warmup: f64,
    /// Last rate over peak rate.
    pub(crate) floor: f64,
    /// Decoupled weight decay of matrices.
    pub(crate) weight_decay: f64,
    /// AdamW's second decay.
    pub(crate) beta2: f64,
    /// Largest global gradient norm; null does not clip.
    pub(crate) clip: Option<f64>,
    /// Strength t of pooled and norm-matched.
    pub(crate) strength: f64,
    /// Strength t of table.
    pub(crate) table_strength: f64,
    /// Weight of a new batch in the running Gram.
    pub(crate) momentum: f64,
    /// after-position or before-position, but for table, which conditions the token table alone.
    pub(crate) placement: Placement,
    /// Peak rate in place of the tuned one; null keeps that.
    pub(crate) rate: Option<f64>,
    /// Rate of the tables over the peak rate in place of the tuned one; null keeps that.
    pub(crate) table_rate: Option<f64>,
    /// Deviation of both tables in place of the tuned one; null keeps that.
    pub(crate) table_std: Option<f64>,
    /// Windows of the tuning slice that are evaluated.
    pub(crate) tune_windows: usize,
    /// Windows of the test documents that are evaluated.
    pub(crate) test_windows: usize,
    /// Windows of the test documents whose prefixes are continued by one token.
    pub(crate) prefix_windows: usize,
    /// Lengths of those prefixes.
    pub(crate) prefix_lengths: Vec<usize>,
    /// What the story in the report begins with.
    pub(crate) prompt: String,
}

impl Recipe {
    /// Whether the numbers fit together.
    ///
    /// # Errors
    /// Names the key at fault.
    pub(crate) fn validate(&self) -> Result<()> {
        for (key, count) in [
            ("batch_size", self.batch_size),
            ("steps", self.steps),
            ("evaluations", self.evaluations),
            ("tune_windows", self.tune_windows),
            ("test_windows", self.test_windows),
            ("prefix_windows", self.prefix_windows),
        ] {
            ensure!(count > 0, "--set {key}=0: at least one is needed");
        }
        ensure!(
            self.steps.is_multiple_of(self.evaluations),
            "--set steps={}: must be a multiple of evaluations, {}",
            self.steps,
            self.evaluations
        );
        ensure!(
            self.prefix_lengths.iter().any(|length| *length < self.context),
            "--set prefix_lengths: at least one below the context, {}, is needed",
            self.context
        );
        for length in &self.prefix_lengths {
            ensure!(
                (1..=self.context).contains(length),
                "--set prefix_lengths: {length} is not between 1 and the context, {}",
                self.context
            );
        }
        Ok(())
    }

    /// The network of an arm over a vocabulary.
    ///
    /// # Errors
    /// When the network or the strength is unknown.
    pub(crate) fn network(
        &self,
        arm: Arm,
        vocabulary: usize,
        std: f64,
        allow_future_leak: bool,
    ) -> Result<Gpt2Config> {
        Ok(Gpt2Config {
            vocabulary,
            context: self.context,
            width: self.width,
            depth: self.depth,
            heads: self.heads,
            dropout: self.dropout,
            token_std: std,
            position_std: std,
            tie_word_embeddings: self.tied,
            conditioning: arm.conditioning(self)?,
            allow_future_leak: allow_future_leak && arm == Arm::Literal,
        })
    }

    /// The training run at a setting. An epoch of it is the way between two evaluations.
    pub(crate) fn fit(&self, setting: Setting, seed: u64) -> FitConfig {
        FitConfig {
            epochs: self.evaluations,
            accumulate: 1,
            ramp: 0.0,
            schedule: Schedule {
                peak: setting.rate,
                shape: Shape::Cosine { warmup: self.warmup, floor: self.floor },
            },
            adamw: AdamWConfig { beta2: self.beta2, ..AdamWConfig::default() },
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
}
