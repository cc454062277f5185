//! Presets: every number of a run, by name.

use std::path::Path;

use anyhow::{Result, bail};
use conditioned_data::{Augment, DIGITS_SIZES};
use conditioned_models::vit::VitConfig;
use conditioned_train::{AdamWConfig, FitConfig, GroupRule, Schedule, Shape};
use serde::{Deserialize, Serialize};

use crate::arm::{Arm, Row};

/// The published deviation of class token and position table.
pub(crate) const PUBLISHED_STD: f64 = 0.02;

/// A named set of recipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Preset {
    /// Seconds: a small network on some digits, for tests.
    Smoke,
    /// Minutes: UCI digits.
    Short,
    /// 4,000 training images of an IDX folder.
    #[serde(rename = "mnist-4k")]
    Mnist4k,
}

impl Preset {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Smoke, "smoke"), (Self::Short, "short"), (Self::Mnist4k, "mnist-4k")];

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Short => "short",
            Self::Mnist4k => "mnist-4k",
        }
    }

    /// The preset asked for; without a name the one that fits the data.
    ///
    /// # Errors
    /// When the name is unknown, or data are missing or not wanted.
    pub(crate) fn choose(name: Option<&str>, data: Option<&Path>) -> Result<Self> {
        let preset = match name {
            None if data.is_some() => Self::Mnist4k,
            None => Self::Short,
            Some(name) => match Self::ALL.iter().find(|(_, known)| *known == name) {
                Some((preset, _)) => *preset,
                None => bail!(
                    "unknown preset `{name}`; known: {}",
                    Self::ALL.map(|(_, known)| known).join(", ")
                ),
            },
        };
        match (preset, data) {
            (Self::Mnist4k, None) => bail!(
                "preset mnist-4k needs --data DIR with the IDX files of MNIST (or of a set in its \
                 format)"
            ),
            (Self::Smoke | Self::Short, Some(_)) => bail!(
                "preset {} trains on the embedded digits; leave out --data, or take mnist-4k",
                preset.name()
            ),
            _ => Ok(preset),
        }
    }

    /// The rows that run unless others are asked for.
    pub(crate) fn rows(self) -> &'static [Row] {
        match self {
            Self::Smoke | Self::Short => &Row::ALL,
            Self::Mnist4k => &[Row::Vit],
        }
    }

    /// Seeds per cell unless another number is asked for.
    pub(crate) fn seeds(self, row: Row) -> u64 {
        match (self, row) {
            (Self::Smoke, _) => 2,
            (Self::Short, Row::Deit) => 3,
            (Self::Short | Self::Mnist4k, _) => 5,
        }
    }

    /// The recipe of a row.
    pub(crate) fn recipe(self, row: Row) -> Recipe {
        let digits = Recipe {
            model: "vit-8".to_string(),
            width: 64,
            depth: 4,
            train_images: DIGITS_SIZES[0],
            tune_images: DIGITS_SIZES[1],
            batch_size: 55,
            epochs: 30,
            warmup: 0.1,
            floor: 0.0,
            weight_decay: 0.05,
            clip: None,
            strength: 0.3,
            rate: None,
            table_std: None,
            drop_path: 0.0,
            label_smoothing: 0.0,
            mixup: 0.0,
            cutmix: 0.0,
            shift: 0,
            ema: None,
            target: 90.0,
        };
        let plain = match self {
            Self::Smoke => Recipe {
                width: 16,
                depth: 2,
                train_images: 220,
                tune_images: 60,
                epochs: 3,
                target: 20.0,
                ..digits
            },
            Self::Short => digits,
            Self::Mnist4k => Recipe {
                model: "vit-28".to_string(),
                train_images: 4000,
                tune_images: 2000,
                batch_size: 64,
                epochs: 12,
                target: 80.0,
                ..digits
            },
        };
        match row {
            Row::Vit => plain,
            // The published values (Touvron et al. 2021, main.py), but for the EMA: 0.99996 looks
            // back over 25,000 steps, more than these runs have.
            Row::Deit => Recipe {
                drop_path: 0.1,
                label_smoothing: 0.1,
                mixup: 0.8,
                cutmix: 1.0,
                ema: Some(0.98),
                ..plain
            },
        }
    }
}

/// Every number of a run but for the arm's own: the keys of `--set`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Preset of the network.
    pub(crate) model: String,
    /// Token width C.
    pub(crate) width: usize,
    /// Blocks.
    pub(crate) depth: usize,
    /// Training images.
    pub(crate) train_images: usize,
    /// Images of the tuning slice, taken from the training data.
    pub(crate) tune_images: usize,
    /// Images per step.
    pub(crate) batch_size: usize,
    /// Passes over the training images.
    pub(crate) epochs: usize,
    /// Part of all steps that warms up.
    pub(crate) warmup: f64,
    /// Last rate over peak rate.
    pub(crate) floor: f64,
    /// Decoupled weight decay of matrices.
    pub(crate) weight_decay: f64,
    /// Largest global gradient norm; null does not clip.
    pub(crate) clip: Option<f64>,
    /// Strength t of conditioned, pooled and norm-matched.
    pub(crate) strength: f64,
    /// Peak rate in place of the tuned one; null keeps that.
    pub(crate) rate: Option<f64>,
    /// Deviation of class token and position table in place of the tuned one; null keeps that.
    pub(crate) table_std: Option<f64>,
    /// Drop-path rate of the last block.
    pub(crate) drop_path: f64,
    /// Label smoothing.
    pub(crate) label_smoothing: f64,
    /// Mixup alpha; 0 is off.
    pub(crate) mixup: f64,
    /// Cutmix alpha; 0 is off.
    pub(crate) cutmix: f64,
    /// Random shift in pixels.
    pub(crate) shift: usize,
    /// Decay of the evaluated moving average; null evaluates the weights themselves.
    pub(crate) ema: Option<f64>,
    /// Tuning accuracy in % whose first step is reported.
    pub(crate) target: f64,
}

impl Recipe {
    /// The network of an arm.
    ///
    /// # Errors
    /// When the network or the strength is unknown.
    pub(crate) fn network(&self, arm: Arm, table_std: f64) -> Result<VitConfig> {
        Ok(VitConfig {
            width: self.width,
            depth: self.depth,
            drop_path: self.drop_path,
            table_std,
            conditioning: arm.method(self.strength)?.into(),
            ..VitConfig::preset(&self.model)?
        })
    }

    /// The augmentation.
    pub(crate) fn augment(&self) -> Augment {
        Augment {
            shift: self.shift,
            mixup: self.mixup,
            cutmix: self.cutmix,
            label_smoothing: self.label_smoothing,
            ..Augment::default()
        }
    }

    /// The training run at a peak rate.
    pub(crate) fn fit(&self, peak: f64, seed: u64) -> FitConfig {
        FitConfig {
            epochs: self.epochs,
            accumulate: 1,
            ramp: 0.0,
            schedule: Schedule {
                peak,
                shape: Shape::Cosine { warmup: self.warmup, floor: self.floor },
            },
            adamw: AdamWConfig::default(),
            groups: GroupRule { weight_decay: self.weight_decay, ..GroupRule::default() },
            clip: self.clip,
            ema: self.ema,
            evaluate_every: 1,
            checkpoint_every: 4,
            seed,
        }
    }
}
