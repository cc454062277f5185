//! Detections in files of COCO's format of results.

use std::path::Path;

use rayon::prelude::*;
use serde_json::value::RawValue;

use super::detection::wrong;
use super::json::{self, ResultEntry, Runs};
use super::read::read_json;
use super::{Category, Detection, DetectionKind, Rle};
use crate::atomic::write_atomic;
use crate::{Error, Result};

/// Writes detections as results of COCO, with the ids of images and categories, whole or not at all.
///
/// Boxes and masks are files of their own: where a result has both, pycocotools takes the area of the box for that of
/// the mask. The numbers are read back to the bit.
///
/// # Errors
/// When a category is none of the list, a number is not finite, a mask is missing, or the file cannot be written.
///
/// Source: the format of results of COCO (cocodataset.org/#format-results).
pub fn write_detections(
    path: &Path,
    detections: &[Detection],
    categories: &[Category],
    kind: DetectionKind,
) -> Result<()> {
    let write = |(i, detection): (usize, &Detection)| {
        let name = || format!("detection {i} (from 0), of image {}", detection.image);
        detection.check(categories.len(), kind).map_err(|problem| wrong(name(), problem))?;
        let runs = |mask: &Rle| Runs { size: mask.size(), counts: mask.compressed() };
        let (bbox, segmentation) = match kind {
            DetectionKind::Boxes => (Some(detection.bbox), None),
            DetectionKind::Masks => (None, detection.mask.as_ref().map(runs)),
        };
        Ok(ResultEntry {
            image_id: detection.image,
            category_id: categories[detection.category].id,
            bbox,
            segmentation,
            score: detection.score,
        })
    };
    let entries: Result<Vec<_>> = detections.par_iter().enumerate().map(write).collect();
    let text = serde_json::to_vec(&entries?)
        .map_err(|e| Error::Io { path: path.into(), reason: e.into() })?;
    write_atomic(path, &text)
}

/// Reads results of COCO: boxes, masks, or both. A mask without a box gets the one around it.
///
/// # Errors
/// When the file cannot be read or is no list of results, or one of them is not whole, of a category that is not
/// in the list, or of a mask that is none: file, its place in the list and what is wrong.
pub fn read_detections(path: &Path, categories: &[Category]) -> Result<Vec<Detection>> {
    let text = read_json(path)?;
    let fail = |problem: String| Error::Coco { path: path.into(), problem };
    let entries: Vec<&RawValue> = serde_json::from_str(&text).map_err(|e| {
        fail(format!("no list of results ({e}); give the results of COCO, or write them again"))
    })?;
    let read = |(i, raw): (usize, &&RawValue)| -> Result<Detection> {
        let fail = |problem: String| {
            fail(format!("result {i} (from 0): {problem}; write it again, or leave it out"))
        };
        let entry: ResultEntry<&RawValue> = json::parse(raw).map_err(fail)?;
        let category = categories.iter().position(|category| category.id == entry.category_id);
        let category = category
            .ok_or_else(|| fail(format!("category {} is none of the data", entry.category_id)))?;
        let mask = entry.segmentation.map(json::runs).transpose().map_err(fail)?;
        let bbox = entry.bbox.or_else(|| mask.as_ref().map(Rle::bbox));
        let bbox = bbox.ok_or_else(|| fail("neither `bbox` nor `segmentation`".into()))?;
        let (image, score) = (entry.image_id, entry.score);
        let detection = Detection { image, category, score, bbox, mask };
        detection.check(categories.len(), DetectionKind::Boxes).map_err(fail)?;
        Ok(detection)
    };
    entries.par_iter().enumerate().map(read).collect()
}
