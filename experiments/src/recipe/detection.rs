//! Detection of objects from scratch, by a Mask R-CNN on an XCiT.

use std::path::Path;

use anyhow::{Result, ensure};
use conditioned_data::{DetectionAugment, DetectionData, DetectionSource, Shapes};
use conditioned_models::Architecture;
use conditioned_models::detection::DetectorConfig;
use conditioned_models::network::Network;
use conditioned_train::Length;
use serde::{Deserialize, Serialize};

use super::{Recipe, Shared, Training, at_least_one};
use crate::checkpoint::Checkpoint;
use crate::hub;
use crate::job::{Init, Job, TaskConfig};
use crate::table::{Request, Stage, Table};
use crate::task::detection::DetectionConfig;

/// Every number of a run on images with objects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DetectionRecipe {
    /// Preset of the backbone, an XCiT.
    pub model: String,
    /// Whether heads and changes of images have the published sizes, or those for images of 64 pixels.
    pub published: bool,
    /// Generated images to train on; 0 with files.
    pub train_images: usize,
    /// Images to choose settings on: generated, or held out from those of the files.
    pub tune_images: usize,
    /// Generated images to report on; 0 with files.
    pub test_images: usize,
    /// Images of a micro-batch.
    pub batch_size: usize,
    /// Passes over the training images, a multiple of `evaluations`.
    pub epochs: usize,
    /// Evaluations of the tuning images on the way.
    pub evaluations: usize,
    /// Anchors of an image that a step trains on.
    pub anchor_samples: usize,
    /// Proposals of an image that a step trains on.
    pub region_samples: usize,
    /// Proposals of an image.
    pub proposals: usize,
    /// Drop-path rate of every block.
    pub drop_path: f64,
    /// How the network is optimised.
    #[serde(flatten)]
    pub training: Training,
    /// What arms and search read.
    #[serde(flatten)]
    pub shared: Shared,
}

impl Recipe for DetectionRecipe {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn validate(&self) -> Result<()> {
        let Self { epochs, evaluations, .. } = *self;
        at_least_one([
            ("batch_size", self.batch_size),
            ("epochs", epochs),
            ("evaluations", evaluations),
            ("tune_images", self.tune_images),
        ])?;
        ensure!(
            epochs.is_multiple_of(evaluations),
            "--set epochs={epochs}: must be a multiple of evaluations, {evaluations}"
        );
        ensure!(
            self.shared.probe_every.is_none(),
            "--set probe_every: a detector has no probes; every other table has"
        );
        Ok(())
    }
}

impl DetectionRecipe {
    /// The images of a folder, or generated ones.
    ///
    /// # Errors
    /// When they cannot be read, or a part has none.
    pub fn data(&self, folder: Option<&Path>, skip_broken: bool) -> Result<DetectionData> {
        let Self { train_images: train, tune_images: tune, test_images: test, .. } = *self;
        Ok(DetectionData::new(match folder {
            None => DetectionSource::Shapes { shapes: Shapes::default(), train, tune, test },
            Some(path) => DetectionSource::Folder { path: path.to_path_buf(), tune, skip_broken },
        })?)
    }

    /// What a cell trains.
    ///
    /// # Errors
    /// When network or strength are unknown, or the network is no XCiT.
    pub fn job<T: Table<Recipe = Self>>(
        request: &Request<'_, T>,
        data: &DetectionData,
        stage: &Stage<'_>,
    ) -> Result<Job> {
        let Self { published, batch_size, epochs, evaluations, drop_path, .. } = *request.recipe;
        let Self { anchor_samples, region_samples, proposals, .. } = *request.recipe;
        let steps = epochs * data.images[0].div_ceil(batch_size);
        let mut network = Network::preset(&request.recipe.model)?;
        let init = request.init.map(|folder| {
            let found = hub::model(folder)?;
            let checkpoint = Checkpoint::read(&std::path::absolute(&found)?, &network)?;
            anyhow::Ok(Init::HuggingFace(checkpoint.of_hub(hub::id(folder))))
        });
        network.set_drop_path(drop_path)?;
        network.set_conditioning(request.conditioning(stage.cell.arm, &stage.setting, steps)?);
        let Network::Xcit(backbone) = &network else {
            anyhow::bail!("--set model={}: a detector stands on an XCiT", request.recipe.model);
        };
        let classes = data.categories.len();
        let (detector, augment, evaluation) = match published {
            true => (
                DetectorConfig::published(backbone.depth, classes),
                DetectionAugment::coco(),
                DetectionAugment::coco_evaluation(),
            ),
            false => (
                DetectorConfig::small(backbone.depth, classes),
                DetectionAugment::default(),
                DetectionAugment::none(),
            ),
        };
        let training = &request.recipe.training;
        Ok(Job {
            network,
            init: init.transpose()?,
            task: TaskConfig::Detection(DetectionConfig {
                data: data.clone(),
                batch_size,
                augment,
                evaluation,
                detector: DetectorConfig { anchor_samples, region_samples, proposals, ..detector },
            }),
            fit: training.fit(stage, Length::Epochs(epochs), epochs / evaluations),
        })
    }
}
