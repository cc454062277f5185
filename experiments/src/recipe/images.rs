//! Image classification from scratch, with a network of any family.

use std::path::Path;

use anyhow::{Result, anyhow, bail, ensure};
use conditioned_data::{
    Augment, DIGITS_SIZES, Error, ImageData, ImageSizes, ImageSource, Preprocessing, Tuning,
};
use conditioned_models::Architecture;
use conditioned_models::architecture::{Input, TableStds};
use conditioned_models::network::Network;
use conditioned_train::{FitConfig, Length};
use serde::{Deserialize, Serialize};

use super::{Recipe, Shared, Training, at_least_one};
use crate::job::{Job, TaskConfig};
use crate::plan::embedding_std;
use crate::settings::{Grid, PUBLISHED_STD};
use crate::table::{Request, Stage, Table};
use crate::task::images::ImagesConfig;

/// Every number of a run on images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRecipe {
    /// Preset of the network, of any family that takes images.
    pub model: String,
    /// Training images; null is all that the tuning slice leaves.
    pub train_images: Option<usize>,
    /// Images of the tuning slice, taken from the training images.
    pub tune_images: usize,
    /// Images of a micro-batch.
    pub batch_size: usize,
    /// Passes over the training images.
    pub epochs: usize,
    /// Drop-path rate of the last block.
    pub drop_path: f64,
    /// Tuning accuracy in % whose first step is reported.
    pub target: f64,
    /// What is done to training images.
    #[serde(flatten)]
    pub augment: Augment,
    /// How the network is optimised.
    #[serde(flatten)]
    pub training: Training,
    /// What arms and search read.
    #[serde(flatten)]
    pub shared: Shared,
}

/// Where a search on the embedded digits begins. Normals are truncated at +-2, so that deviations beyond 1 hardly
/// change what is drawn.
pub const DIGITS_GRID: Grid = Grid::new(
    &[1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2],
    &[(1.0, 0.02), (1.0, 0.1), (1.0, 0.3), (1.0, 1.0)],
);

/// The same of a smoke test.
pub const SMOKE_GRID: Grid = Grid::new(&[2e-3], &[(1.0, 0.02), (1.0, 0.3)]);

impl Recipe for ImageRecipe {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn validate(&self) -> Result<()> {
        let train = ("train_images", self.train_images.unwrap_or(1));
        at_least_one([train, ("tune_images", self.tune_images), ("batch_size", self.batch_size)])
    }
}

impl ImageRecipe {
    /// 1,100 embedded UCI digits, a ViT of 200,000 parameters: 12 seconds a run.
    pub fn digits() -> Self {
        Self {
            model: "vit-8".to_string(),
            train_images: Some(DIGITS_SIZES[0]),
            tune_images: DIGITS_SIZES[1],
            batch_size: 55,
            epochs: 30,
            drop_path: 0.0,
            target: 90.0,
            augment: Augment::default(),
            training: Training::default(),
            shared: Shared::default(),
        }
    }

    /// The same recipe for the tiny network of its family on some digits: seconds, for tests.
    pub fn smoke(self) -> Self {
        Self {
            model: self.model + "-tiny",
            train_images: Some(220),
            tune_images: 60,
            epochs: 3,
            target: 20.0,
            ..self
        }
    }

    /// Whether the network has a class token or a position table in front of its first block.
    pub fn has_embedding_tables(&self) -> bool {
        Network::preset(&self.model)
            .is_ok_and(|network| network.table_stds() != TableStds::default())
    }

    /// The images of a folder, or the embedded ones. Image files are prepared for the side of the network.
    ///
    /// # Errors
    /// When they cannot be read, are too few, or do not fit the network.
    pub fn data(&self, folder: Option<&Path>, skip_broken: bool) -> Result<ImageData> {
        let Input::Images { channels, side, classes } = Network::preset(&self.model)?.input()
        else {
            bail!("--set model={}: it takes no images", self.model);
        };
        let source = match folder {
            None => ImageSource::Digits,
            Some(path) => ImageSource::Folder {
                path: path.to_path_buf(),
                preprocessing: Preprocessing::imagenet(side),
                skip_broken,
            },
        };
        let sizes = ImageSizes { train: self.train_images, tune: Tuning::Images(self.tune_images) };
        let (data, splits) = ImageData::read(source, sizes).map_err(|error| match error {
            Error::Images { .. } => {
                anyhow!("{error} (--set train_images and tune_images say how many are taken)")
            }
            error => error.into(),
        })?;
        let (shape, found) = (splits.train.shape(), splits.train.classes());
        let wanted = [channels, side, side];
        ensure!(
            shape == wanted && (found == classes || !data.classes.is_empty()),
            "{}: images are {shape:?} with {found} classes, {} takes {wanted:?} with {classes}; choose another with \
             --set model=NAME",
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
        let steps = epochs.saturating_mul(data.train_images.div_ceil(batch_size));
        let mut network = Network::preset(&request.recipe.model)?;
        if !data.classes.is_empty() {
            network.set_classes(data.classes.len())?;
        }
        network.set_drop_path(drop_path)?;
        network.set_conditioning(request.conditioning(stage.cell.arm, &stage.setting, steps)?);
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
                augment: request.recipe.augment.clone(),
                target: Some(target),
            }),
            fit: FitConfig {
                checkpoint_every: 4,
                ..request.recipe.training.fit(stage, Length::Epochs(epochs), 1)
            },
        })
    }
}
