//! Classification of long sequences from scratch, by a Nystromformer.

use anyhow::{Result, ensure};
use conditioned_data::SequenceData;
use conditioned_models::EMBEDDING_TABLES;
use conditioned_models::network::Network;
use conditioned_models::nystromformer::{LongAttention, NystromformerConfig};
use conditioned_nn::{InverseScale, Precision};
use conditioned_train::{AdamWConfig, FitConfig, GroupRule, Length, Schedule, Shape};
use serde::{Deserialize, Serialize};

use super::{Recipe, Shared, at_least_one};
use crate::job::{Job, TaskConfig};
use crate::plan::embedding_std;
use crate::table::{Request, Stage, Table};
use crate::task::sequences::SequencesConfig;

/// The first learning rate over the peak: that of PyTorch's `OneCycleLR`.
const BASE: f64 = 0.04;

/// The id of pixels of value 0.
const BLACK: u16 = 1;

/// Every number of a run on long sequences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SequenceRecipe {
    /// Token width C.
    pub width: usize,
    /// Layers.
    pub depth: usize,
    /// Heads.
    pub heads: usize,
    /// Hidden width of the MLP.
    pub hidden: usize,
    /// Landmarks of a head; 0 for exact softmax attention.
    pub landmarks: usize,
    /// Taps of the convolution of the values; 0 for none.
    pub convolution: usize,
    /// What the pseudo-inverse begins with: head, or batch as in the published runs.
    pub inverse_scale: InverseScale,
    /// Dropout of hidden states.
    pub dropout: f64,
    /// Generated sequences to train on; 0 with files.
    pub train_rows: usize,
    /// Generated sequences to choose settings on; 0 with files.
    pub tune_rows: usize,
    /// Generated sequences to report on; 0 with files.
    pub test_rows: usize,
    /// Bytes of the longest text; longer ones are cut.
    pub max_length: usize,
    /// Whether pixels of value 0 are left out of the sequences, the places of the others kept: upstream's
    /// loader takes them for padding.
    pub leave_out_black: bool,
    /// Sequences of a micro-batch.
    pub batch_size: usize,
    /// Steps, a multiple of `evaluations`.
    pub steps: usize,
    /// Micro-batches of an optimiser step: `batch_size` is the size of one. Several processes share them.
    pub accumulate: usize,
    /// Evaluations of the tuning set on the way.
    pub evaluations: usize,
    /// Part of all steps over which the learning rate rises; then it falls to zero on a line.
    pub warmup: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// Largest global gradient norm; null does not clip.
    pub clip: Option<f64>,
    /// What arms and search read.
    #[serde(flatten)]
    pub shared: Shared,
}

impl Recipe for SequenceRecipe {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn validate(&self) -> Result<()> {
        let Self { steps, evaluations, warmup, .. } = *self;
        at_least_one([
            ("batch_size", self.batch_size),
            ("steps", steps),
            ("accumulate", self.accumulate),
            ("evaluations", evaluations),
            ("max_length", self.max_length),
        ])?;
        ensure!(
            steps.is_multiple_of(evaluations),
            "--set steps={steps}: must be a multiple of evaluations, {evaluations}"
        );
        ensure!(warmup > 0.0 && warmup < 1.0, "--set warmup={warmup}: must be above 0 and below 1");
        Ok(())
    }
}

impl SequenceRecipe {
    /// The published model and optimiser (mlpen/Nystromformer at commit 5689313, `LRA/code/lra_config.py`), one
    /// pass over a thousand small batches.
    pub fn published() -> Self {
        Self {
            width: 64,
            depth: 2,
            heads: 2,
            hidden: 128,
            landmarks: 64,
            convolution: 35,
            inverse_scale: InverseScale::Batch,
            dropout: 0.1,
            train_rows: 0,
            tune_rows: 0,
            test_rows: 0,
            max_length: 4000,
            leave_out_black: false,
            batch_size: 32,
            steps: 1000,
            accumulate: 1,
            evaluations: 10,
            warmup: 0.1,
            weight_decay: 0.0,
            eps: 1e-6,
            clip: None,
            shared: Shared { learning_rate: Some(1e-4), ..Shared::default() },
        }
    }

    fn attention(&self) -> LongAttention {
        match self.landmarks {
            0 => LongAttention::Softmax,
            landmarks => LongAttention::Nystrom {
                landmarks,
                convolution: self.convolution,
                scale: self.inverse_scale,
            },
        }
    }

    /// What a cell trains.
    ///
    /// # Errors
    /// When a strength is unknown, or pixels are left out of what has none.
    pub fn job<T: Table<Recipe = Self>>(
        request: &Request<'_, T>,
        data: &SequenceData,
        pixels: bool,
        stage: &Stage<'_>,
    ) -> Result<Job> {
        let recipe = request.recipe;
        let micro_batches = recipe.steps * recipe.accumulate;
        ensure!(
            pixels || !recipe.leave_out_black,
            "--set leave_out_black=true: {} has no pixels; name the rows with --models",
            data.name
        );
        let network = NystromformerConfig {
            vocabulary: data.vocabulary,
            context: data.longest,
            width: recipe.width,
            depth: recipe.depth,
            heads: recipe.heads,
            hidden: recipe.hidden,
            attention: recipe.attention(),
            dropout: recipe.dropout,
            table_std: embedding_std(stage.setting),
            conditioning: request.conditioning(stage.cell.arm, &stage.setting, micro_batches)?,
        };
        let every = micro_batches / recipe.evaluations;
        Ok(Job {
            network: Network::Nystromformer(network),
            init: None,
            task: TaskConfig::Sequences(SequencesConfig {
                data: data.clone(),
                batch_size: recipe.batch_size,
                leave_out: recipe.leave_out_black.then_some(BLACK),
            }),
            fit: FitConfig {
                length: Length::MicroBatches(micro_batches),
                accumulate: recipe.accumulate,
                ramp: 0.0,
                schedule: Schedule {
                    peak: stage.setting.learning_rate,
                    shape: Shape::Triangle { base: BASE, falloff: 1.0 - recipe.warmup },
                },
                adamw: AdamWConfig { eps: recipe.eps, ..AdamWConfig::default() },
                muon: None,
                groups: GroupRule {
                    table_rate: stage.setting.embedding_lr_scale,
                    ..GroupRule::new(recipe.weight_decay, EMBEDDING_TABLES)
                },
                clip: recipe.clip,
                ema: None,
                evaluate_every: every,
                checkpoint_every: every,
                probe_every: None,
                precision: Precision::Full,
                seed: stage.cell.seed,
            },
        })
    }
}
