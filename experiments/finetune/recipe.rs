//! Every number of a run but for the arm's own.

use anyhow::{Result, ensure};
use conditioned_models::conditioning::Placement;
use conditioned_train::{AdamWConfig, FitConfig, GroupRule, Schedule, Shape};
use serde::{Deserialize, Serialize};

/// The keys of `--set`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Passes over the training texts.
    pub(crate) epochs: usize,
    /// Texts per step.
    pub(crate) batch_size: usize,
    /// Tokens of the longest text, special ones included; longer ones are cut.
    pub(crate) longest: usize,
    /// Peak rate.
    pub(crate) rate: f64,
    /// Part of all steps that warms up.
    pub(crate) warmup: f64,
    /// Last rate over peak rate.
    pub(crate) floor: f64,
    /// Decoupled weight decay of matrices.
    pub(crate) weight_decay: f64,
    /// AdamW's second decay.
    pub(crate) beta2: f64,
    /// AdamW's epsilon.
    pub(crate) eps: f64,
    /// Largest global gradient norm; null does not clip.
    pub(crate) clip: Option<f64>,
    /// Dropout of hidden states; null is the checkpoint's.
    pub(crate) dropout: Option<f64>,
    /// Rate of a layer over that of the layer above; 1 for one rate.
    pub(crate) layer_decay: f64,
    /// Layers from the bottom, embedding included, that do not learn; 0 for none.
    pub(crate) frozen_layers: usize,
    /// Strength t of the conditioned arms.
    pub(crate) strength: f64,
    /// Part of all steps over which the tokens go from unconditioned to conditioned.
    pub(crate) ramp: f64,
    /// before-position, after-position or after-norm.
    pub(crate) placement: Placement,
    /// The first so many training texts, in an order of their own; null is all.
    pub(crate) train_rows: Option<usize>,
    /// Share of the training texts that a sweep judges by and a table trains on.
    pub(crate) tune: f64,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 2,
            batch_size: 32,
            longest: 128,
            rate: 1e-4,
            warmup: 0.1,
            floor: 0.0,
            weight_decay: 0.01,
            beta2: 0.98,
            eps: 1e-6,
            clip: Some(1.0),
            dropout: None,
            layer_decay: 1.0,
            frozen_layers: 0,
            strength: 0.1,
            ramp: 0.1,
            placement: Placement::AfterPosition,
            train_rows: None,
            tune: 0.15,
        }
    }
}

impl Recipe {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// Names the key at fault.
    pub(crate) fn validate(&self) -> Result<()> {
        for (key, count) in [
            ("epochs", self.epochs),
            ("batch_size", self.batch_size),
            ("train_rows", self.train_rows.unwrap_or(1)),
        ] {
            ensure!(count > 0, "--set {key}=0: at least one is needed");
        }
        ensure!(
            self.layer_decay > 0.0 && self.layer_decay <= 1.0,
            "--set layer_decay={}: must be above 0 and at most 1",
            self.layer_decay
        );
        for (key, share) in [("ramp", self.ramp), ("tune", self.tune)] {
            ensure!((0.0..1.0).contains(&share), "--set {key}={share}: must be in [0, 1)");
        }
        ensure!(self.strength.is_finite(), "--set strength={}: must be finite", self.strength);
        Ok(())
    }

    /// Optimiser steps over `rows` training texts.
    pub(crate) fn steps(&self, rows: usize) -> usize {
        self.epochs * rows.div_ceil(self.batch_size)
    }

    /// Steps until the conditioning of a training over `rows` texts is reached.
    pub(crate) fn ramp_steps(&self, rows: usize) -> u64 {
        (self.ramp * self.steps(rows) as f64).round() as u64
    }

    /// The training run of a network of `depth` layers.
    pub(crate) fn fit(&self, depth: usize, seed: u64) -> FitConfig {
        FitConfig {
            epochs: self.epochs,
            accumulate: 1,
            ramp: 0.0,
            schedule: Schedule {
                peak: self.rate,
                shape: Shape::Cosine { warmup: self.warmup, floor: self.floor },
            },
            adamw: AdamWConfig { beta2: self.beta2, eps: self.eps, ..AdamWConfig::default() },
            groups: GroupRule {
                weight_decay: self.weight_decay,
                rates: self.rates(depth),
                ..GroupRule::default()
            },
            clip: self.clip,
            ema: None,
            evaluate_every: self.epochs,
            checkpoint_every: 1,
            seed,
        }
    }

    /// The rates of embedding and layers over that of the head.
    fn rates(&self, depth: usize) -> Vec<(String, f64)> {
        let name = |layer| match layer {
            0 => "bert.embeddings.*".to_string(),
            layer => format!("bert.encoder.layer.{}.*", layer - 1),
        };
        let rate =
            |layer: usize| match layer < self.frozen_layers + usize::from(self.frozen_layers > 0) {
                true => 0.0,
                false => self.layer_decay.powi((depth + 1 - layer) as i32),
            };
        let rates = (0..=depth).map(|layer| (name(layer), rate(layer)));
        rates.filter(|(_, rate)| *rate != 1.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_near_the_input_learn_slower_or_not_at_all() {
        assert!(Recipe::default().rates(2).is_empty());
        let recipe = Recipe { layer_decay: 0.5, frozen_layers: 1, ..Recipe::default() };
        let wanted = [
            ("bert.embeddings.*", 0.0),
            ("bert.encoder.layer.0.*", 0.0),
            ("bert.encoder.layer.1.*", 0.5),
        ];
        assert_eq!(recipe.rates(2), wanted.map(|(name, rate)| (name.to_string(), rate)));
    }
}
