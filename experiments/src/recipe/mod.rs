//! Every number of a run but for the arm's own, by kind of task, and the job that follows from it.

pub mod detection;
pub mod encoder;
pub mod image_tuning;
pub mod images;
pub mod language;
pub mod sequences;
pub mod texts;

use anyhow::{Context, Result, anyhow, ensure};
use conditioned_models::architecture::PackedWeight;
use conditioned_models::conditioning::Placement;
use conditioned_models::{Architecture, EMBEDDING_TABLES, OUTER_MATRICES};
use conditioned_nn::Precision;
use conditioned_train::{
    AdamWConfig, FitConfig, GroupRule, Length, MuonRule, Packed, Schedule, Shape,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::arm::{Arm, Optimizer, STRENGTH};
use crate::settings::Setting;
use crate::table::Stage;

/// Every number of a run but for the arm's own: the keys of `--set`.
pub trait Recipe: Serialize + DeserializeOwned + Clone {
    /// The fields that every recipe has.
    fn shared(&self) -> &Shared;

    /// Checks what the types of the fields cannot.
    ///
    /// # Errors
    /// Names the key at fault.
    fn validate(&self) -> Result<()>;

    /// The recipe for cells that start from a checkpoint, before anything is set on the command line.
    fn for_checkpoint(self) -> Self {
        self
    }
}

/// The fields of every recipe; part of it by `#[serde(flatten)]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shared {
    /// Peak learning rate for every arm; null takes the searched ones.
    pub learning_rate: Option<f64>,
    /// Learning rate of the embedding tables over the peak; null takes the searched ones.
    pub embedding_lr_scale: Option<f64>,
    /// Standard deviation of the embedding tables at initialisation; null takes the searched ones.
    pub embedding_std: Option<f64>,
    /// Strength t of per-sequence, pooled and their controls; null takes the searched one.
    pub strength: Option<f64>,
    /// Strength t of table; null takes the searched one.
    pub table_strength: Option<f64>,
    /// The factor of factor and pooled-directions; null takes the searched one.
    pub factor: Option<f64>,
    /// Part of all steps after which the Gram matrix of pooled-frozen stands still.
    pub frozen_after: f64,
    /// Further matrices that Muon leaves to AdamW, as patterns of their names: `["h.1.*"]`. Each must fit one.
    pub muon_leaves: Vec<String>,
    /// Weight of a new batch in the running Gram matrix of pooled conditioning.
    pub momentum: f64,
    /// before-position, after-position or after-norm; null takes the searched one, else the arm's own place.
    pub placement: Option<Placement>,
    /// Part of all steps over which tokens go from unconditioned to conditioned; null takes the searched one.
    pub ramp: Option<f64>,
    /// Power of the singular values in token-graying.
    pub graying_epsilon: f64,
    /// lambda of spectral-conditioning.
    pub spectral_lambda: f64,
    /// Optimiser steps between probes of the inside of the model; null probes nothing.
    pub probe_every: Option<usize>,
    /// f32, or bf16: what training steps multiply matrices in; evaluations are in f32.
    pub precision: Precision,
}

impl Default for Shared {
    /// Searched settings, strength 0.3, and the published numbers of the siblings.
    fn default() -> Self {
        Self {
            learning_rate: None,
            embedding_lr_scale: None,
            embedding_std: None,
            strength: Some(STRENGTH),
            table_strength: Some(STRENGTH),
            factor: None,
            frozen_after: 0.1,
            muon_leaves: Vec::new(),
            momentum: 0.1,
            placement: None,
            ramp: Some(0.0),
            graying_epsilon: 0.6,
            spectral_lambda: 10.0,
            probe_every: None,
            precision: Precision::Full,
        }
    }
}

impl Shared {
    /// Checks what the types of the fields cannot.
    ///
    /// # Errors
    /// Names the key at fault.
    pub fn validate(&self) -> Result<()> {
        if let Some(rate) = self.learning_rate {
            let good = rate > 0.0 && rate.is_finite();
            ensure!(good, "--set learning_rate={rate}: must be above 0 and finite");
        }
        if let Some(strength) = self.strength {
            ensure!(strength.is_finite(), "--set strength={strength}: must be finite");
        }
        let share = self.frozen_after;
        ensure!((0.0..=1.0).contains(&share), "--set frozen_after={share}: must be in [0, 1]");
        if let Some(ramp) = self.ramp {
            ensure!((0.0..1.0).contains(&ramp), "--set ramp={ramp}: must be in [0, 1)");
        }
        ensure!(
            self.momentum > 0.0 && self.momentum <= 1.0,
            "--set momentum={}: must be above 0 and at most 1",
            self.momentum
        );
        at_least_one([("probe_every", self.probe_every.unwrap_or(1))])
    }

    /// Everything that can be searched is left to the search.
    pub fn searched() -> Self {
        Self { strength: None, table_strength: None, ramp: None, ..Self::default() }
    }

    /// The recipe with what a search found where the recipe leaves it open.
    pub fn at(&self, setting: &Setting) -> Self {
        Self {
            strength: self.strength.or(setting.strength),
            table_strength: self.table_strength.or(setting.strength),
            factor: self.factor.or(setting.strength),
            placement: self.placement.or(setting.placement),
            ramp: self.ramp.or(setting.ramp),
            ..self.clone()
        }
    }

    /// What Muon moves in a network, if the arm has it.
    pub(crate) fn muon(&self, arm: Arm, network: &impl Architecture) -> Option<MuonRule> {
        (arm.optimizer == Optimizer::Muon)
            .then(|| MuonRule { leaves: self.muon_leaves.clone(), ..muon_rule(network) })
    }

    /// Whether learning rate or embedding tables are set by hand.
    pub fn is_set(&self) -> bool {
        self.learning_rate.or(self.embedding_lr_scale).or(self.embedding_std).is_some()
    }
}

/// Checks that each of these numbers is at least one.
///
/// # Errors
/// Names the first key that is zero.
pub fn at_least_one<const N: usize>(counts: [(&str, usize); N]) -> Result<()> {
    for (key, count) in counts {
        ensure!(count > 0, "--set {key}=0: at least one is needed");
    }
    Ok(())
}

/// How many of so many training images are left to train on when the tuning slice is taken off.
///
/// # Errors
/// When none is.
pub fn images_left(all: usize, tune_images: usize) -> Result<usize> {
    let left = all.checked_sub(tune_images).filter(|left| *left > 0);
    left.with_context(|| {
        format!("--set tune_images={tune_images}: there are {all} training images")
    })
}

/// How the layers of a checkpoint learn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layers {
    /// Learning rate of a layer over that of the layer above.
    pub(crate) decay: f64,
    /// Layers from the bottom, embedding included, that do not learn.
    pub(crate) frozen: usize,
}

impl Layers {
    fn validate(self) -> Result<()> {
        ensure!(
            self.decay > 0.0 && self.decay <= 1.0,
            "--set layer_decay={}: must be above 0 and at most 1",
            self.decay
        );
        Ok(())
    }

    /// Learning rates of embedding (layer 0) and layers over that of the head, by the names of their
    /// parameters, where they are others.
    fn rates(self, depth: usize, names: impl Fn(usize) -> Vec<String>) -> Vec<(String, f64)> {
        let rate = |layer: usize| match layer < self.frozen + usize::from(self.frozen > 0) {
            true => 0.0,
            false => self.decay.powi((depth + 1 - layer) as i32),
        };
        let layers = (0..=depth).filter(|&layer| rate(layer) != 1.0);
        layers
            .flat_map(|layer| names(layer).into_iter().map(move |name| (name, rate(layer))))
            .collect()
    }
}

/// The error of a text that cannot be prepared, with the keys of `--set` that mend it.
pub(crate) fn unprepared(error: conditioned_data::Error) -> anyhow::Error {
    match error {
        conditioned_data::Error::Separator { .. } => {
            anyhow!("{error} (--set separator=LINE; --set separator= for blank lines)")
        }
        error => error.into(),
    }
}

/// How a network is optimised; part of a recipe by `#[serde(flatten)]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Micro-batches of an optimiser step: `batch_size` is the size of one. Several processes share them.
    pub accumulate: usize,
    /// Part of all steps that warms up.
    pub warmup: f64,
    /// Last learning rate over the peak.
    pub floor: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// AdamW's second decay.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// Largest global gradient norm; null does not clip.
    pub clip: Option<f64>,
    /// Decay of the evaluated moving average; null evaluates the weights themselves.
    pub ema: Option<f64>,
}

impl Default for Training {
    /// A tenth of warm-up, a cosine to zero, and AdamW as PyTorch has it.
    fn default() -> Self {
        let AdamWConfig { beta2, eps, .. } = AdamWConfig::default();
        Self {
            accumulate: 1,
            warmup: 0.1,
            floor: 0.0,
            weight_decay: 0.05,
            beta2,
            eps,
            clip: None,
            ema: None,
        }
    }
}

impl Training {
    /// The training run of a stage, with a cosine schedule, evaluated after every `every` epochs or
    /// micro-batches.
    pub fn fit(&self, stage: &Stage<'_>, length: Length, every: usize) -> FitConfig {
        let Self { accumulate, warmup, floor, weight_decay, beta2, eps, clip, ema } = *self;
        let shape = Shape::Cosine { warmup, floor };
        FitConfig {
            length,
            accumulate,
            ramp: 0.0,
            schedule: Schedule { peak: stage.setting.learning_rate, shape },
            adamw: AdamWConfig { beta2, eps, ..AdamWConfig::default() },
            muon: None,
            groups: GroupRule {
                table_rate: stage.setting.embedding_lr_scale,
                ..GroupRule::new(weight_decay, EMBEDDING_TABLES)
            },
            clip,
            ema,
            evaluate_every: every,
            checkpoint_every: every,
            probe_every: None,
            precision: Precision::Full,
            seed: stage.cell.seed,
        }
    }
}

/// What Muon moves in a network.
pub fn muon_rule(network: &impl Architecture) -> MuonRule {
    let mut rule = MuonRule::new(OUTER_MATRICES);
    let packed = network.packed_weights().into_iter();
    rule.constants.packed = packed
        .map(|PackedWeight { names, axis, blocks }| Packed {
            names: names.to_string(),
            axis,
            parts: 3,
            blocks,
        })
        .collect();
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_near_the_input_learn_slower_or_not_at_all() {
        let names = |layer| vec![format!("layer.{layer}")];
        assert!(Layers { decay: 1.0, frozen: 0 }.rates(2, names).is_empty());
        let rates = Layers { decay: 0.5, frozen: 1 }.rates(2, names);
        let wanted = [("layer.0", 0.0), ("layer.1", 0.0), ("layer.2", 0.5)];
        assert_eq!(rates, wanted.map(|(name, rate)| (name.to_string(), rate)));
    }
}
