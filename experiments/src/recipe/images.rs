//! Image classification with a network of any family.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use conditioned_data::{Augment, DIGITS_SIZES, ImageData};
use conditioned_models::Architecture;
use conditioned_models::architecture::{Input, TableStds};
use conditioned_models::network::Network;
use conditioned_train::{FitConfig, Length};
use serde::{Deserialize, Serialize};

use super::{Recipe, Shared, Training, at_least_one};
use crate::job::{Job, TaskConfig};
use crate::plan::embedding_std;
use crate::search::PUBLISHED_STD;
use crate::table::{Request, Stage, Table};
use crate::task::images::ImagesConfig;

/// Every number of a run on images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRecipe {
    /// Preset of the network, of any family that takes images.
    pub model: String,
    /// Training images.
    pub train_images: usize,
    /// Images of the tuning slice, taken from the training data.
    pub tune_images: usize,
    /// Images per step.
    pub batch_size: usize,
    /// Passes over the training images.
    pub epochs: usize,
    /// Drop-path rate of the last block.
    pub drop_path: f64,
    /// Label smoothing; 0 is off.
    pub label_smoothing: f64,
    /// Mixup alpha; 0 is off.
    pub mixup: f64,
    /// Cutmix alpha; 0 is off.
    pub cutmix: f64,
    /// Random shift in pixels.
    pub shift: usize,
    /// Tuning accuracy in % whose first step is reported.
    pub target: f64,
    /// How the network is optimised.
    #[serde(flatten)]
    pub training: Training,
    /// What arms and search read.
    #[serde(flatten)]
    pub shared: Shared,
}

impl Recipe for ImageRecipe {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn validate(&self) -> Result<()> {
        let (train, tune) = (self.train_images, self.tune_images);
        let batch_size = ("batch_size", self.batch_size);
        at_least_one([("train_images", train), ("tune_images", tune), batch_size])
    }
}

impl ImageRecipe {
    /// 1,100 embedded UCI digits, a ViT of 200,000 parameters: 12 seconds a run.
    pub fn digits() -> Self {
        Self {
            model: "vit-8".to_string(),
            train_images: DIGITS_SIZES[0],
            tune_images: DIGITS_SIZES[1],
            batch_size: 55,
            epochs: 30,
            drop_path: 0.0,
            label_smoothing: 0.0,
            mixup: 0.0,
            cutmix: 0.0,
            shift: 0,
            target: 90.0,
            training: Training::default(),
            shared: Shared::default(),
        }
    }

    /// Whether the network has a class token or a position table in front of its first block.
    pub fn has_embedding_tables(&self) -> bool {
        Network::preset(&self.model)
            .is_ok_and(|network| network.table_stds() != TableStds::default())
    }

    /// The images of a folder, or the embedded ones.
    ///
    /// # Errors
    /// When they cannot be read, are too few, or do not fit the network.
    pub fn data(&self, folder: Option<&Path>) -> Result<ImageData> {
        let sizes = [self.train_images, self.tune_images];
        let Input::Images { channels, side, classes } = Network::preset(&self.model)?.input()
        else {
            bail!("--set model={}: it takes no images", self.model);
        };
        let (data, splits) = ImageData::read(folder, sizes)?;
        let (shape, found) = (splits.train.shape(), splits.train.classes());
        let wanted = [channels, side, side];
        ensure!(
            shape == wanted && found == classes,
            "{}: images are {shape:?} with {found} classes, {} takes {wanted:?} with {classes}",
            data.name,
            self.model
        );
        Ok(data)
    }

    /// What a cell trains.
    ///
    /// # Errors
    /// When network or strength are unknown, or the setting is one that the network has not.
    pub fn job<T: Table<Recipe = Self>>(
        request: &Request<'_, T>,
        data: &ImageData,
        stage: &Stage<'_>,
    ) -> Result<Job> {
        let Self { drop_path, batch_size, epochs, target, .. } = *request.recipe;
        let Self { label_smoothing, mixup, cutmix, shift, ref model, .. } = *request.recipe;
        let steps = epochs * (data.train_images / batch_size);
        let mut network = Network::preset(model)?;
        network.set_drop_path(drop_path)?;
        network.set_conditioning(request.conditioning(stage.cell.arm, steps)?);
        let std = embedding_std(stage.setting);
        // A network without embedding tables trains at the setting for tables as published alone.
        if std != PUBLISHED_STD || network.table_stds() != TableStds::default() {
            network.set_table_std(std)?;
        }
        Ok(Job {
            network,
            init: None,
            task: TaskConfig::Images(ImagesConfig {
                data: data.clone(),
                batch_size,
                augment: Augment { shift, mixup, cutmix, label_smoothing, ..Augment::default() },
                target,
            }),
            fit: FitConfig {
                checkpoint_every: 4,
                ..request.recipe.training.fit(stage, Length::Epochs(epochs), 1)
            },
        })
    }
}
