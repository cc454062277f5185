//! Objects in images, as COCO describes them: annotations, masks, metrics, results.

mod boxes;
mod data;
mod detection;
mod example;
mod figure;
mod files;
mod json;
mod loader;
mod matching;
mod metrics;
mod polygon;
mod read;
mod results;
mod rle;
mod sampling;
mod shapes;
#[cfg(test)]
mod sheet;
mod transform;

pub use boxes::box_iou;
pub use data::{DetectionData, DetectionSource, DetectionSplits};
pub use detection::{Detection, DetectionKind};
pub use example::{Example, ExampleSet, Examples};
pub use files::{CocoImage, CocoSet};
pub use loader::{
    DetectionBatch, DetectionEpoch, DetectionLoader, DetectionLoaderConfig, DetectionTarget,
};
pub use metrics::{CocoScores, score_detections};
pub use results::{read_detections, write_detections};
pub use rle::Rle;
pub use shapes::{ShapeImages, Shapes};
pub use transform::{DetectionAugment, DetectionCrop, DetectionResize};

use serde::{Deserialize, Serialize};

/// An object in an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// The id of the annotation.
    pub id: u64,
    /// The place of its category in the list of all, from 0.
    pub category: usize,
    /// Left, top, width and height in pixels.
    pub bbox: [f64; 4],
    /// Its pixels, in the size of the image.
    pub mask: Rle,
    /// The area that the annotation gives, which need not be that of the mask.
    pub area: f64,
    /// Whether it stands for a crowd of objects, which detections may overlap without being wrong.
    pub crowd: bool,
}

/// A category of objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "an object with `id` and `name`")]
pub struct Category {
    /// The id in files, which need not run from 0 or 1 on.
    pub id: u64,
    /// Its name.
    pub name: String,
}
