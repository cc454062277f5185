//! [`Detection`]: an object that a model takes to be in an image.

use super::Rle;
use crate::Error;

/// An object that a model takes to be in an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// The id of the image.
    pub image: u64,
    /// The place of its category in the list of all, from 0.
    pub category: usize,
    /// How sure the model is, in any unit: detections are ordered by it.
    pub score: f64,
    /// Left, top, width and height in pixels.
    pub bbox: [f64; 4],
    /// Its pixels, in the size of the image; none where boxes alone are detected.
    pub mask: Option<Rle>,
}

/// What of an object is scored, or written as a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetectionKind {
    /// Its box, `bbox` in COCO.
    Boxes,
    /// Its pixels, `segm` in COCO.
    Masks,
}

impl Detection {
    /// Checks that there is a number wherever one is needed, and a mask for masks.
    ///
    /// # Errors
    /// What was found and expected.
    pub(super) fn check(&self, categories: usize, kind: DetectionKind) -> Result<(), String> {
        if self.category >= categories {
            let category = self.category;
            return Err(format!(
                "category {category}, and there are {categories}; give its place in their list, from 0"
            ));
        }
        if !self.score.is_finite() {
            return Err(format!("score {}; give a finite number", self.score));
        }
        if !is_box(self.bbox) {
            return Err(format!(
                "box {:?}; give finite numbers, width and height not below 0",
                self.bbox
            ));
        }
        match (kind, &self.mask) {
            (DetectionKind::Masks, None) => {
                Err("no mask, and masks are asked for; give one, or ask for boxes".into())
            }
            _ => Ok(()),
        }
    }
}

/// Whether four numbers are finite, and the latter two no lengths below 0.
pub(super) fn is_box(bbox: [f64; 4]) -> bool {
    bbox.iter().all(|value| value.is_finite()) && bbox[2] >= 0.0 && bbox[3] >= 0.0
}

/// What is wrong with a detection, or with an object that it is scored by.
pub(super) fn wrong(name: impl std::fmt::Display, problem: impl std::fmt::Display) -> Error {
    Error::Detections { problem: format!("{name}: {problem}") }
}
