//! Fine-tuning of a checkpoint on labelled images.

use anyhow::{Result, ensure};
use conditioned_data::{Augment, ImageData};
use conditioned_models::network::Network;
use conditioned_models::vit::VitConfig;
use conditioned_train::{FitConfig, Length};
use serde::{Deserialize, Serialize};

use super::{Layers, Recipe, Shared, Training, at_least_one};
use crate::checkpoint::Checkpoint;
use crate::job::{Init, Job, TaskConfig};
use crate::table::{Request, Stage, Table};
use crate::task::images::ImagesConfig;

/// Every number of a fine-tuning on images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageTuning {
    /// Passes over the training images.
    pub epochs: usize,
    /// Images of a micro-batch.
    pub batch_size: usize,
    /// Side of the images in pixels, a multiple of the patches'; null is the checkpoint's.
    pub image_size: Option<usize>,
    /// Training images; null is all that the tuning slice leaves.
    pub train_images: Option<usize>,
    /// Share of the training images that settings are chosen on.
    pub tune: f64,
    /// Drop-path rate of the last block.
    pub drop_path: f64,
    /// Learning rate of a layer over that of the layer above; 1 for one rate.
    pub layer_decay: f64,
    /// Layers from the bottom, embedding included, that do not learn; 0 for none.
    pub frozen_layers: usize,
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

impl Recipe for ImageTuning {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn validate(&self) -> Result<()> {
        let train = ("train_images", self.train_images.unwrap_or(1));
        let side = ("image_size", self.image_size.unwrap_or(1));
        at_least_one([("epochs", self.epochs), ("batch_size", self.batch_size), train, side])?;
        self.layers().validate()?;
        ensure!(
            self.tune > 0.0 && self.tune < 1.0,
            "--set tune={}: must be above 0 and below 1",
            self.tune
        );
        Ok(())
    }
}

/// What every cell starts from, and the images.
pub struct TunedImages {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Its network, with the classes of the images, without conditioning.
    pub network: VitConfig,
    /// The images.
    pub images: ImageData,
}

impl ImageTuning {
    fn layers(&self) -> Layers {
        Layers { decay: self.layer_decay, frozen: self.frozen_layers }
    }

    /// What a cell trains.
    ///
    /// # Errors
    /// When recipe, network and images do not fit together.
    pub fn job<T: Table>(
        &self,
        request: &Request<'_, T>,
        data: &TunedImages,
        stage: &Stage<'_>,
    ) -> Result<Job> {
        let Self { epochs, batch_size, frozen_layers, drop_path, .. } = *self;
        let TunedImages { network, images, checkpoint } = data;
        ensure!(
            frozen_layers <= network.depth,
            "--set frozen_layers={frozen_layers}: more than {} has, {}",
            checkpoint.folder.display(),
            network.depth
        );
        let distillation = network.distilled.then_some("dist_token");
        let embedding = ["patch_embed.*", "cls_token", "pos_embed"].into_iter().chain(distillation);
        let names = |layer| match layer {
            0 => embedding.clone().map(str::to_string).collect(),
            layer => vec![format!("blocks.{}.*", layer - 1)],
        };
        let mut fit = self.training.fit(stage, Length::Epochs(epochs), 1);
        fit.groups.rates = self.layers().rates(network.depth, names);
        let steps = epochs * images.train_images.div_ceil(batch_size);
        Ok(Job {
            network: Network::Vit(VitConfig {
                drop_path,
                conditioning: request.conditioning(stage.cell.arm, &stage.setting, steps)?,
                ..network.clone()
            }),
            init: Some(Init::HuggingFace(checkpoint.clone())),
            task: TaskConfig::Images(ImagesConfig {
                data: images.clone(),
                batch_size,
                augment: self.augment.clone(),
                target: None,
            }),
            fit: FitConfig { checkpoint_every: 1, ..fit },
        })
    }
}
