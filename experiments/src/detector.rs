//! A trained detector, and what it finds.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use candle_core::Device;
use conditioned_data::{
    Category, Detection, DetectionBatch, DetectionLoader, DetectionLoaderConfig, DetectionTarget,
    Examples, Normalisation, Preprocessing, Rle,
};
use conditioned_models::detection::{Found, Mask, MaskRcnn};
use conditioned_models::network::Network;

use crate::job::{self, TaskConfig, WEIGHTS};
use crate::run::folder::Folder;

/// Sides of images are multiples of the coarsest stride of the backbone.
const STRIDE: usize = 32;

/// Mean and deviation of the channels, those of ImageNet.
pub(crate) fn normalisation() -> Normalisation {
    Preprocessing::imagenet(STRIDE).normalisation()
}

/// The detector of a finished run.
#[derive(Debug)]
pub struct Detector {
    model: MaskRcnn,
    config: DetectionLoaderConfig,
    categories: Vec<Category>,
    device: Device,
}

impl Detector {
    /// The detector of a run in its folder.
    ///
    /// # Errors
    /// When it is no finished run of a detector, or a file cannot be read.
    pub fn open(run: &Path) -> Result<Self> {
        let folder = Folder::new(run);
        ensure!(
            folder.is_run(),
            "{}: not the folder of a run; give one of `table2-coco`, such as runs/table2-coco/ROW/ARM/SEED",
            run.display()
        );
        let config = folder.config()?;
        let (Network::Xcit(backbone), TaskConfig::Detection(task)) =
            (&config.job.network, &config.job.task)
        else {
            bail!(
                "{}: {} finds no objects; give a run of `table2-coco`",
                run.display(),
                config.name()
            );
        };
        let weights = run.join(WEIGHTS);
        ensure!(
            weights.is_file(),
            "{}: no {WEIGHTS}; a run has one when it is finished, and a run of a search has none",
            run.display()
        );
        let store = job::store(&config)?;
        MaskRcnn::new(backbone, &task.detector, store.builder())?;
        store.load(&weights)?;
        let augment = task.evaluation.clone();
        Ok(Self {
            model: MaskRcnn::new(backbone, &task.detector, store.frozen()?)?,
            config: DetectionLoaderConfig { augment, ..DetectionLoaderConfig::evaluation(1) },
            categories: task.data.categories.clone(),
            device: store.device().clone(),
        })
    }

    /// The categories of what it finds.
    pub fn categories(&self) -> &[Category] {
        &self.categories
    }

    /// What it finds in images, in their pixels: image by image, best first.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn find(&self, images: Arc<dyn Examples>) -> Result<Vec<Detection>> {
        let images =
            DetectionLoader::new(images, self.config.clone(), &normalisation(), &self.device)?;
        found_in_all(&self.model, &images)
    }
}

/// What a model finds in all images of a loader.
pub(crate) fn found_in_all(model: &MaskRcnn, images: &DetectionLoader) -> Result<Vec<Detection>> {
    let mut detections = Vec::new();
    for batch in images.epoch(0) {
        detections.extend(found(model, &batch?)?);
    }
    Ok(detections)
}

/// What a model finds in the images of a batch, in pixels of the images as they were.
pub(crate) fn found(
    model: &MaskRcnn,
    DetectionBatch { images, targets }: &DetectionBatch,
) -> candle_core::Result<Vec<Detection>> {
    let found = model.detect(images, &sizes(targets))?;
    let of_image = |(found, target): (Vec<Found>, &DetectionTarget)| {
        found.iter().map(|found| detection(found, target)).collect::<Vec<_>>()
    };
    Ok(found.into_iter().zip(targets).flat_map(of_image).collect())
}

/// Height and width of what is real in each image.
pub(crate) fn sizes(targets: &[DetectionTarget]) -> Vec<[usize; 2]> {
    targets.iter().map(|target| target.size).collect()
}

fn detection(found: &Found, target: &DetectionTarget) -> Detection {
    let scale = target.scale.map(|scale| 1.0 / scale);
    let [x1, y1, x2, y2] = found.scaled(scale);
    let Mask { height, width, pixels } = found.mask(target.original_size, scale);
    Detection {
        image: target.id,
        category: found.class,
        score: found.score,
        bbox: [x1, y1, x2 - x1, y2 - y1],
        mask: Some(Rle::of_mask(&pixels, height, width)),
    }
}
