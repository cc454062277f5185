//! Which detections find which objects, image by image, as COCOeval decides it.

use std::cmp::Ordering;

use super::boxes::box_iou;
use super::detection::wrong;
use super::rle::iou_of_areas;
use super::{Detection, DetectionKind, Instance};
use crate::Result;

/// Areas in pixels, ends included: all, small, medium, large.
const RANGES: [[f64; 2]; 4] = [[0.0, 1e10], [0.0, 1024.0], [1024.0, 9216.0], [9216.0, 1e10]];
/// Detections of an image and category that are looked at.
pub(super) const MOST: usize = 100;
/// Overlaps from which an object is found.
pub(super) const THRESHOLDS: usize = 10;

/// These overlaps, to the bit as `numpy.linspace(0.5, 0.95, 10)` has them.
fn thresholds() -> [f64; THRESHOLDS] {
    const STEP: f64 = (0.95 - 0.5) / 9.0;
    std::array::from_fn(|i| if i == 9 { 0.95 } else { i as f64 * STEP + 0.5 })
}

/// One image and category.
pub(super) struct Cell {
    pub(super) category: usize,
    /// Of the surest detections, the surest first.
    pub(super) scores: Vec<f64>,
    /// By range, then by detection.
    pub(super) outcomes: [Vec<Outcome>; 4],
    /// Objects that are not ignored, by range.
    pub(super) objects: [usize; 4],
}

/// What became of a detection, a bit for each threshold.
#[derive(Clone, Copy)]
pub(super) struct Outcome {
    pub(super) matched: u16,
    pub(super) ignored: u16,
}

/// The cells of one image that have an object or a detection.
pub(super) fn cells(
    image: u64,
    objects: &[Instance],
    mut found: Vec<&Detection>,
    kind: DetectionKind,
) -> Result<Vec<Cell>> {
    let mut objects: Vec<&Instance> = objects.iter().collect();
    objects.sort_by_key(|object| object.category);
    let surest = |a: f64, b: f64| b.partial_cmp(&a).unwrap_or(Ordering::Equal);
    found.sort_by(|a, b| a.category.cmp(&b.category).then(surest(a.score, b.score)));
    let mut categories: Vec<usize> = objects.iter().map(|object| object.category).collect();
    categories.extend(found.iter().map(|detection| detection.category));
    categories.sort_unstable();
    categories.dedup();
    let of = |category: usize| {
        let objects = objects.iter().copied().filter(|object| object.category == category);
        let (start, end) = (
            found.partition_point(|detection| detection.category < category),
            found.partition_point(|detection| detection.category <= category),
        );
        let found = &found[start..end.min(start + MOST)];
        cell(image, category, &objects.collect::<Vec<_>>(), found, kind)
    };
    categories.into_iter().map(of).collect()
}

fn cell(
    image: u64,
    category: usize,
    objects: &[&Instance],
    found: &[&Detection],
    kind: DetectionKind,
) -> Result<Cell> {
    let (overlaps, areas) = match kind {
        DetectionKind::Boxes => {
            let row = |detection: &&Detection| {
                let iou = |object: &&Instance| box_iou(detection.bbox, object.bbox, object.crowd);
                objects.iter().map(iou).collect()
            };
            (found.iter().map(row).collect(), found.iter().map(|d| d.bbox[2] * d.bbox[3]).collect())
        }
        DetectionKind::Masks => mask_overlaps(objects, found)
            .map_err(|e| wrong(format!("image {image}, category {category}"), e))?,
    };
    let (mut counts, thresholds) = ([0; 4], thresholds());
    let outcomes = std::array::from_fn(|range| {
        let is_other = |area: f64| area < RANGES[range][0] || area > RANGES[range][1];
        let ignored: Vec<bool> = objects.iter().map(|o| o.crowd || is_other(o.area)).collect();
        counts[range] = ignored.iter().filter(|&&ignored| !ignored).count();
        let mut outcomes = matches(objects, &ignored, &overlaps, &thresholds);
        for (outcome, &area) in outcomes.iter_mut().zip(&areas) {
            if is_other(area) {
                outcome.ignored |= !outcome.matched;
            }
        }
        outcomes
    });
    let scores = found.iter().map(|detection| detection.score).collect();
    Ok(Cell { category, scores, outcomes, objects: counts })
}

/// The overlap of each detection with each object, and the areas of the detections.
fn mask_overlaps(objects: &[&Instance], found: &[&Detection]) -> Result<(Vec<Vec<f64>>, Vec<f64>)> {
    let truth: Vec<_> = objects
        .iter()
        .map(|object| (&object.mask, object.mask.area(), object.mask.bbox(), object.crowd))
        .collect();
    let (mut overlaps, mut areas) = (Vec::new(), Vec::new());
    for mask in found.iter().filter_map(|detection| detection.mask.as_ref()) {
        let (area, bbox) = (mask.area(), mask.bbox());
        let mut row = Vec::with_capacity(truth.len());
        for &(object, object_area, object_bbox, crowd) in &truth {
            mask.check(object)?;
            // Most lie elsewhere.
            let common = match box_iou(bbox, object_bbox, false) > 0.0 {
                true => mask.intersection(object),
                false => 0,
            };
            row.push(iou_of_areas(common, [area, object_area], crowd));
        }
        overlaps.push(row);
        areas.push(area as f64);
    }
    Ok((overlaps, areas))
}

/// Hands out the objects, at each threshold, to one detection after the other.
fn matches(
    objects: &[&Instance],
    ignored: &[bool],
    overlaps: &[Vec<f64>],
    thresholds: &[f64; THRESHOLDS],
) -> Vec<Outcome> {
    let mut order: Vec<usize> = (0..objects.len()).collect();
    order.sort_by_key(|&object| ignored[object]);
    let mut outcomes = vec![Outcome { matched: 0, ignored: 0 }; overlaps.len()];
    // The thresholds at which an object is taken.
    let mut taken = vec![0u16; objects.len()];
    for (outcome, overlaps) in outcomes.iter_mut().zip(overlaps) {
        let most = overlaps.iter().copied().fold(0.0, f64::max);
        for (i, &threshold) in thresholds.iter().enumerate() {
            let (bit, mut least) = (1 << i, threshold.min(1.0 - 1e-10));
            if most < least {
                break;
            }
            let mut best: Option<usize> = None;
            for &object in &order {
                if taken[object] & bit != 0 && !objects[object].crowd {
                    continue;
                }
                // One that counts is not given up for one that does not.
                if best.is_some_and(|best| !ignored[best]) && ignored[object] {
                    break;
                }
                // Of equals the last.
                if overlaps[object] >= least {
                    least = overlaps[object];
                    best = Some(object);
                }
            }
            if let Some(best) = best {
                taken[best] |= bit;
                outcome.matched |= bit;
                outcome.ignored |= if ignored[best] { bit } else { 0 };
            }
        }
    }
    outcomes
}
