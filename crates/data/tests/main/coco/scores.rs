//! Scores of detections against those of COCOeval, all the way from files; files of results.

use std::fs;
use std::path::Path;

use conditioned_data::{
    Category, CocoScores, CocoSet, Detection, DetectionKind, Instance, Rle, read_detections,
    score_detections, write_detections,
};
use image::RgbImage;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

/// Means of up to some thousand numbers of size 1 in f64, in another order than numpy's.
const TOLERANCE: f64 = 1e-13;

const KINDS: [DetectionKind; 2] = [DetectionKind::Boxes, DetectionKind::Masks];

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    dataset: Value,
    boxes: Scored,
    masks: Scored,
}

#[derive(Deserialize)]
struct Scored {
    results: Value,
    scores: [Option<f64>; 12],
    by_category: Vec<Option<f64>>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str::<Fixture>(include_str!("scores.json")).unwrap().cases
}

fn write(path: &Path, json: &Value) {
    fs::write(path, json.to_string()).unwrap();
}

/// Writes a data set with black images, and reads it.
fn set(folder: &Path, dataset: &Value) -> CocoSet {
    for image in dataset["images"].as_array().unwrap() {
        let [height, width] = ["height", "width"].map(|key| image[key].as_u64().unwrap() as u32);
        let file = folder.join(image["file_name"].as_str().unwrap());
        RgbImage::new(width, height).save(file).unwrap();
    }
    let json = folder.join("annotations.json");
    write(&json, dataset);
    CocoSet::read(&json, folder, None, false).unwrap()
}

fn near(found: Option<f64>, expected: Option<f64>) -> bool {
    match (found, expected) {
        (Some(found), Some(expected)) => (found - expected).abs() <= TOLERANCE,
        _ => found == expected,
    }
}

#[test]
fn scores_are_those_of_cocoeval() {
    let mut numbers = 0;
    for (i, Case { dataset, boxes, masks }) in cases().into_iter().enumerate() {
        let folder = TempDir::new().unwrap();
        let set = set(folder.path(), &dataset);
        for (kind, expected) in KINDS.into_iter().zip([boxes, masks]) {
            let path = folder.path().join("results.json");
            write(&path, &expected.results);
            let detections = read_detections(&path, set.categories()).unwrap();
            let found =
                score_detections(&set.truth(), set.categories().len(), &detections, kind).unwrap();
            let pairs = found.named().into_iter().zip(expected.scores);
            for ((name, found), expected) in pairs {
                assert!(
                    near(found, expected),
                    "case {i}, {kind:?}, {name}: {found:?} {expected:?}"
                );
                numbers += usize::from(expected.is_some());
            }
            let pairs = || found.by_category.iter().zip(&expected.by_category);
            assert!(pairs().all(|(a, b)| near(*a, *b)), "case {i}, {kind:?}: {found:?}");
            assert_eq!(found.by_category.len(), expected.by_category.len());
        }
    }
    assert!(numbers > 90, "{numbers} of the numbers have a value");
}

#[test]
fn results_are_read_as_they_were_written() {
    let Case { dataset, masks, boxes } = cases().swap_remove(1);
    let folder = TempDir::new().unwrap();
    let set = set(folder.path(), &dataset);
    let [from, to] = ["from.json", "to.json"].map(|name| folder.path().join(name));
    for (kind, results) in KINDS.into_iter().zip([boxes.results, masks.results]) {
        write(&from, &results);
        let mut detections = read_detections(&from, set.categories()).unwrap();
        detections[0].score = 0.1 + 0.2;
        write_detections(&to, &detections, set.categories(), kind).unwrap();
        assert_eq!(read_detections(&to, set.categories()).unwrap(), detections);
        assert_eq!(fs::read_to_string(&to).unwrap().contains("bbox"), kind == DetectionKind::Boxes);
    }
    let none = read_detections(&to, &set.categories()[..1]).unwrap_err().to_string();
    assert!(none.contains("to.json: result ") && none.contains("none of the data"), "{none}");
}

#[test]
fn results_that_are_none_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("results.json");
    let categories = [Category { id: 7, name: "cat".into() }];
    let refuse = |text: &str, problem: &str| {
        fs::write(&path, text).unwrap();
        let error = read_detections(&path, &categories).unwrap_err().to_string();
        assert!(error.contains("results.json: ") && error.contains(problem), "{error}");
    };
    refuse("{}", "no list of results");
    refuse("[{\"image_id\": 1", "no list of results");
    refuse("[7]", "result 0 (from 0): invalid type");
    let result =
        |rest: &str| format!("[{{\"image_id\": 1, \"category_id\": 7, \"score\": 0.5{rest}}}]");
    refuse(&result(""), "neither `bbox` nor `segmentation`");
    refuse(&result(", \"bbox\": [1, 2, 3]"), "invalid length 3");
    refuse(&result(", \"bbox\": [1, 2, 3, -1]"), "not below 0");
    let runs = |counts: &str| {
        result(&format!(", \"segmentation\": {{\"size\": [2, 3], \"counts\": {counts}}}"))
    };
    refuse(&runs("[1, 2]"), "add up to 3 pixels, and 2 x 3 are 6");
    refuse("[{\"image_id\": 1, \"category_id\": 7, \"bbox\": [1, 2, 3, 4]}]", "`score`");
}

fn object(category: usize, bbox: [f64; 4]) -> Instance {
    let mask = Rle::of_box(bbox, 20, 20).unwrap();
    Instance { id: 5, category, bbox, area: bbox[2] * bbox[3], mask, crowd: false }
}

fn detection(image: u64, score: f64) -> Detection {
    let bbox = [1.0, 1.0, 4.0, 4.0];
    let mask = Some(Rle::of_box(bbox, 20, 20).unwrap());
    Detection { image, category: 0, score, bbox, mask }
}

fn message<T>(result: conditioned_data::Result<T>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn what_cannot_be_scored_is_named() {
    let objects = [object(0, [1.0, 1.0, 4.0, 4.0])];
    let truth: [(u64, &[Instance]); 1] = [(3, &objects)];
    let score = |detections: &[Detection], kind| score_detections(&truth, 1, detections, kind);
    let refuse = |detection: Detection, problem: &str| {
        let error = message(score(&[detection], DetectionKind::Masks));
        assert!(
            error.contains("detection 0 (from 0), of image") && error.contains(problem),
            "{error}"
        );
    };
    refuse(detection(4, 0.5), "none of those that are scored");
    refuse(detection(3, f64::NAN), "score NaN");
    refuse(Detection { category: 1, ..detection(3, 0.5) }, "category 1, and there are 1");
    refuse(Detection { bbox: [0.0, 0.0, f64::INFINITY, 1.0], ..detection(3, 0.5) }, "inf");
    let boxes = Detection { mask: None, ..detection(3, 0.5) };
    refuse(boxes.clone(), "no mask");
    assert_eq!(score(&[boxes], DetectionKind::Boxes).unwrap().ap50.map(f64::round), Some(1.0));

    let small = Rle::of_mask(&[true; 9], 3, 3);
    let error = message(score(
        &[Detection { mask: Some(small), ..detection(3, 0.5) }],
        DetectionKind::Masks,
    ));
    assert!(error.contains("image 3, category 0") && error.contains("3 x 3 pixels"), "{error}");

    let error = message(score_detections(&[truth[0], truth[0]], 1, &[], DetectionKind::Boxes));
    assert!(error.contains("image 3: comes twice"), "{error}");
    let error = message(score_detections(&truth, 0, &[], DetectionKind::Boxes));
    assert!(error.contains("object 5 of image 3: category 0, and there are 0"), "{error}");
    let wrong =
        [object(0, [1.0, 1.0, 4.0, 4.0]), Instance { area: f64::NAN, ..objects[0].clone() }];
    let error = message(score_detections(&[(3, &wrong)], 1, &[], DetectionKind::Boxes));
    assert!(error.contains("area NaN"), "{error}");

    let path = Path::new("results.json");
    let error = message(write_detections(path, &[detection(3, 0.5)], &[], DetectionKind::Boxes));
    assert!(error.contains("category 0, and there are 0") && !path.exists(), "{error}");
}

proptest! {
    /// Detections that are the objects reach every score; the order of images and of the others does not matter.
    #[test]
    fn objects_that_are_detected_score_one(corners in prop::collection::vec((0usize..3, 0u8..8, 0u8..8), 1..12)) {
        let objects: Vec<Instance> = corners
            .iter()
            .enumerate()
            .map(|(i, &(category, x, y))| {
                let bbox = [f64::from(x), f64::from(y), 3.0 + i as f64 / 4.0, 5.0];
                object(category, bbox)
            })
            .collect();
        let detections: Vec<Detection> = objects
            .iter()
            .enumerate()
            .map(|(i, object)| Detection {
                image: 3,
                category: object.category,
                score: 1.0 - i as f64 / 100.0,
                bbox: object.bbox,
                mask: Some(object.mask.clone()),
            })
            .collect();
        let none: &[Instance] = &[];
        for kind in KINDS {
            let score = |truth: &[(u64, &[Instance])], detections: &[Detection]| -> CocoScores {
                score_detections(truth, 3, detections, kind).unwrap()
            };
            let scores = score(&[(9, none), (3, &objects)], &detections);
            // Boxes of no two objects are the same; masks may be, and one may then take the other's.
            for value in [scores.ap, scores.ap50, scores.ar100, scores.ap_small] {
                prop_assert!((value.unwrap() - 1.0).abs() < TOLERANCE, "{:?}", scores);
            }
            let turned: Vec<Detection> = detections.iter().rev().cloned().collect();
            prop_assert_eq!(&score(&[(3, &objects), (9, none)], &turned), &scores);
        }
    }
}
