//! [`score_detections`]: the numbers that detections are scored by on COCO.
//!
//! Ties are in the order of COCOeval: detections of equal score by the ids of their images, and in an image as they
//! are given.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::detection::{is_box, wrong};
use super::matching::{Cell, MOST, Outcome, THRESHOLDS, cells};
use super::{Detection, DetectionKind, Instance};
use crate::Result;

/// Recalls at which precision is read off.
const RECALLS: usize = 101;

/// What COCO scores detections by; none where there is no object that counts, which pycocotools gives -1 for.
#[derive(Debug, Clone, PartialEq)]
pub struct CocoScores {
    /// Average precision: the mean over categories, the overlaps 0.5, 0.55, ..., 0.95 and the recalls 0, 0.01, ..., 1.
    pub ap: Option<f64>,
    /// AP at overlap 0.5.
    pub ap50: Option<f64>,
    /// AP at overlap 0.75.
    pub ap75: Option<f64>,
    /// AP of objects of an area up to 32^2 pixels.
    pub ap_small: Option<f64>,
    /// AP of objects of 32^2 to 96^2 pixels.
    pub ap_medium: Option<f64>,
    /// AP of objects of 96^2 pixels and more.
    pub ap_large: Option<f64>,
    /// Average recall with one detection for each image and category: the mean over categories and overlaps.
    pub ar1: Option<f64>,
    /// AR with 10 detections.
    pub ar10: Option<f64>,
    /// AR with 100 detections.
    pub ar100: Option<f64>,
    /// AR of small objects with 100 detections.
    pub ar_small: Option<f64>,
    /// AR of medium objects with 100 detections.
    pub ar_medium: Option<f64>,
    /// AR of large objects with 100 detections.
    pub ar_large: Option<f64>,
    /// AP of each category.
    pub by_category: Vec<Option<f64>>,
}

impl CocoScores {
    /// The twelve numbers by name, in the order of pycocotools.
    pub fn named(&self) -> [(&'static str, Option<f64>); 12] {
        [
            ("ap", self.ap),
            ("ap50", self.ap50),
            ("ap75", self.ap75),
            ("ap_small", self.ap_small),
            ("ap_medium", self.ap_medium),
            ("ap_large", self.ap_large),
            ("ar1", self.ar1),
            ("ar10", self.ar10),
            ("ar100", self.ar100),
            ("ar_small", self.ar_small),
            ("ar_medium", self.ar_medium),
            ("ar_large", self.ar_large),
        ]
    }
}

/// Scores detections by the objects of all images, each with its id, those without objects too.
///
/// ```
/// use conditioned_data::{Detection, DetectionKind, Instance, Rle, score_detections};
///
/// let bbox = [10.0, 20.0, 40.0, 30.0];
/// let mask = Rle::of_box(bbox, 100, 100)?;
/// let object = Instance { id: 1, category: 0, bbox, mask, area: 1200.0, crowd: false };
/// // Half of the box, surer than the whole of it: wrong from overlap 0.55 on.
/// let detection = |score, width| {
///     let bbox = [10.0, 20.0, width, 30.0];
///     Detection { image: 7, category: 0, score, bbox, mask: None }
/// };
/// let detections = [detection(0.9, 20.0), detection(0.5, 40.0)];
/// let scores = score_detections(&[(7, &[object])], 1, &detections, DetectionKind::Boxes)?;
/// assert!((scores.ap50.unwrap() - 1.0).abs() < 1e-12);
/// assert!((scores.ap75.unwrap() - 0.5).abs() < 1e-12);
/// assert_eq!((scores.ar1, scores.ar100), (Some(0.1), Some(1.0)));
/// assert_eq!(scores.ap_small, None);
/// # Ok::<(), conditioned_data::Error>(())
/// ```
///
/// In each image and category the surest 100 detections take, one after the other, the free object that they overlap
/// most, if they do by the threshold. An object that is a crowd or not of the size is ignored, and with it what takes
/// it; so is a detection of another size that takes none. The size of an object is its `area`, that of a detection
/// the area of its box, or for masks of its mask. Precision at a recall is the highest at that recall or above.
///
/// # Errors
/// When an image comes twice, an object or detection is of an unknown category, a detection of an unknown image, a
/// number is not finite, or a mask is missing or of another size than those of its image.
///
/// Source: `COCOeval` of pycocotools, whose numbers these are.
pub fn score_detections(
    truth: &[(u64, &[Instance])],
    categories: usize,
    detections: &[Detection],
    kind: DetectionKind,
) -> Result<CocoScores> {
    let mut images = truth.to_vec();
    images.sort_by_key(|image| image.0);
    check_truth(&images, categories)?;
    let mut found: Vec<Vec<&Detection>> = vec![Vec::new(); images.len()];
    for (i, detection) in detections.iter().enumerate() {
        let name = || format!("detection {i} (from 0), of image {}", detection.image);
        detection.check(categories, kind).map_err(|problem| wrong(name(), problem))?;
        match images.binary_search_by_key(&detection.image, |image| image.0) {
            Ok(place) => found[place].push(detection),
            Err(_) => {
                let problem =
                    "the image is none of those that are scored; give its objects, or leave it out";
                return Err(wrong(name(), problem));
            }
        }
    }
    let cells: Result<Vec<Vec<Cell>>> = images
        .par_iter()
        .zip(found)
        .map(|(&(id, objects), found)| cells(id, objects, found, kind))
        .collect();
    let mut by_category: Vec<Vec<Cell>> = (0..categories).map(|_| Vec::new()).collect();
    for cell in cells?.into_iter().flatten() {
        by_category[cell.category].push(cell);
    }
    let scores: Vec<[Option<RangeScores>; 4]> = by_category.par_iter().map(|c| scores(c)).collect();
    Ok(summary(&scores))
}

fn check_truth(images: &[(u64, &[Instance])], categories: usize) -> Result<()> {
    if let Some(pair) = images.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let problem = "comes twice; give all of its objects at once";
        return Err(wrong(format!("image {}", pair[0].0), problem));
    }
    for (image, objects) in images {
        for object in *objects {
            let Instance { id, category, bbox, area, .. } = object;
            let fail = |problem| Err(wrong(format!("object {id} of image {image}"), problem));
            if *category >= categories {
                return fail(format!("category {category}, and there are {categories}; give all"));
            }
            if !is_box(*bbox) || !area.is_finite() {
                return fail(format!(
                    "box {bbox:?}, area {area}; give finite numbers, lengths not below 0"
                ));
            }
        }
    }
    Ok(())
}

/// Scores of one category in one range of areas, by threshold.
#[derive(Clone, Copy)]
struct RangeScores {
    precision: [f64; THRESHOLDS],
    /// With 1, 10 and 100 detections of an image.
    recall: [[f64; THRESHOLDS]; 3],
}

/// The scores of a category in each range; none where no object counts.
fn scores(cells: &[Cell]) -> [Option<RangeScores>; 4] {
    let detections =
        || cells.iter().enumerate().flat_map(|(i, c)| (0..c.scores.len()).map(move |d| (i, d)));
    let mut order: Vec<(usize, usize)> = detections().collect();
    let score = |(cell, detection): (usize, usize)| cells[cell].scores[detection];
    order.sort_by(|&a, &b| score(b).partial_cmp(&score(a)).unwrap_or(Ordering::Equal));
    std::array::from_fn(|range| {
        let objects: usize = cells.iter().map(|cell| cell.objects[range]).sum();
        if objects == 0 {
            return None;
        }
        let outcome = |cell: usize, detection: usize| cells[cell].outcomes[range][detection];
        let recall = |most: usize, bit: u16| {
            let counts = |&(cell, detection): &(usize, usize)| {
                let Outcome { matched, ignored } = outcome(cell, detection);
                detection < most && matched & !ignored & bit != 0
            };
            detections().filter(counts).count() as f64 / objects as f64
        };
        Some(RangeScores {
            precision: std::array::from_fn(|i| {
                let counted = order.iter().filter_map(|&(cell, detection)| {
                    let Outcome { matched, ignored } = outcome(cell, detection);
                    (ignored & 1 << i == 0).then_some(matched & 1 << i != 0)
                });
                precision(counted, objects)
            }),
            recall: [1, 10, MOST].map(|most| std::array::from_fn(|i| recall(most, 1 << i))),
        })
    })
}

/// The mean precision over all recalls, of detections that are right or wrong, the surest first.
fn precision(right: impl Iterator<Item = bool>, objects: usize) -> f64 {
    let (mut tp, mut fp) = (0.0, 0.0);
    let mut curve: Vec<[f64; 2]> = right
        .map(|right| {
            *(if right { &mut tp } else { &mut fp }) += 1.0;
            [tp / objects as f64, tp / (fp + tp + f64::EPSILON)]
        })
        .collect();
    let mut highest = 0.0f64;
    for [_, precision] in curve.iter_mut().rev() {
        highest = highest.max(*precision);
        *precision = highest;
    }
    let at = |i: usize| {
        let least = if i == RECALLS - 1 { 1.0 } else { i as f64 * 0.01 };
        curve
            .get(curve.partition_point(|[recall, _]| *recall < least))
            .map_or(0.0, |point| point[1])
    };
    (0..RECALLS).map(at).sum::<f64>() / RECALLS as f64
}

/// The means over the categories that have objects.
fn summary(scores: &[[Option<RangeScores>; 4]]) -> CocoScores {
    let mean = |range: usize, of: &dyn Fn(&RangeScores) -> f64| {
        let values: Vec<f64> = scores.iter().filter_map(|s| s[range].as_ref().map(of)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let all = |values: &[f64; THRESHOLDS]| values.iter().sum::<f64>() / THRESHOLDS as f64;
    let ap = |range| mean(range, &|scores| all(&scores.precision));
    let ar = |range, most: usize| mean(range, &|scores| all(&scores.recall[most]));
    CocoScores {
        ap: ap(0),
        ap50: mean(0, &|scores| scores.precision[0]),
        ap75: mean(0, &|scores| scores.precision[5]),
        ap_small: ap(1),
        ap_medium: ap(2),
        ap_large: ap(3),
        ar1: ar(0, 0),
        ar10: ar(0, 1),
        ar100: ar(0, 2),
        ar_small: ar(1, 2),
        ar_medium: ar(2, 2),
        ar_large: ar(3, 2),
        by_category: scores.iter().map(|s| s[0].as_ref().map(|s| all(&s.precision))).collect(),
    }
}
