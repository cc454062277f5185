//! Masks against those of pycocotools, and against bitmaps.

use conditioned_data::{Rle, box_iou};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    drawn: Vec<Drawn>,
    pairs: Vec<Pair>,
    boxes: Vec<[f64; 4]>,
    /// Without and with crowds.
    box_ious: [Vec<Vec<f64>>; 2],
}

#[derive(Deserialize)]
struct Drawn {
    size: [usize; 2],
    polygons: Option<Vec<Vec<f64>>>,
    #[serde(rename = "box")]
    rectangle: Option<[f64; 4]>,
    #[serde(flatten)]
    described: Described,
}

#[derive(Deserialize)]
struct Described {
    counts: String,
    area: usize,
    bbox: [f64; 4],
}

#[derive(Deserialize)]
struct Pair {
    size: [usize; 2],
    masks: [Bits; 2],
    union: String,
    iou: [f64; 2],
}

#[derive(Deserialize)]
struct Bits {
    bits: String,
    #[serde(flatten)]
    described: Described,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("masks.json")).unwrap()
}

fn check(mask: &Rle, Described { counts, area, bbox }: &Described) {
    let [height, width] = mask.size();
    assert_eq!(mask.compressed(), *counts);
    assert_eq!((mask.area(), mask.bbox()), (*area, *bbox), "{counts}");
    assert_eq!(Rle::of_string(counts, height, width).unwrap(), *mask);
    assert_eq!(Rle::of_counts(height, width, mask.counts().to_vec()).unwrap(), *mask);
    assert_eq!(Rle::of_mask(&mask.to_mask(), height, width), *mask);
}

#[test]
fn polygons_and_boxes_are_drawn_as_pycocotools_does() {
    let drawn = fixture().drawn;
    for Drawn { size: [height, width], polygons, rectangle, described } in &drawn {
        let mask = match (polygons, rectangle) {
            (Some(polygons), _) => Rle::of_polygons(polygons, *height, *width),
            (_, rectangle) => Rle::of_box(rectangle.unwrap(), *height, *width),
        };
        check(&mask.unwrap(), described);
    }
    assert_eq!(drawn.len(), 90);
}

#[test]
fn masks_are_those_of_pycocotools() {
    for Pair { size: [height, width], masks, union, iou } in fixture().pairs {
        let [a, b] = masks.map(|Bits { bits, described }| {
            let bits: Vec<bool> = bits.bytes().map(|bit| bit == b'1').collect();
            let mask = Rle::of_mask(&bits, height, width);
            assert_eq!(mask.to_mask(), bits);
            check(&mask, &described);
            mask
        });
        assert_eq!(a.union(&b).unwrap().compressed(), union);
        assert_eq!([false, true].map(|crowd| a.iou(&b, crowd).unwrap()), iou);
    }
}

#[test]
fn boxes_overlap_as_those_of_pycocotools() {
    let Fixture { boxes, box_ious, .. } = fixture();
    for (crowd, ious) in [false, true].into_iter().zip(box_ious) {
        for (a, row) in boxes.iter().zip(ious) {
            let found: Vec<f64> = boxes.iter().map(|b| box_iou(*a, *b, crowd)).collect();
            assert_eq!(found, row);
        }
    }
}

#[test]
fn what_is_no_mask_is_refused() {
    let counts = |counts: &[u32]| Rle::of_counts(3, 4, counts.to_vec());
    let string = |text: &str| Rle::of_string(text, 3, 4);
    let polygons = |polygons: &[Vec<f64>]| Rle::of_polygons(polygons, 3, 4);
    let message = |result: conditioned_data::Result<Rle>| result.unwrap_err().to_string();

    assert!(message(counts(&[5, 6])).contains("add up to 11 pixels, and 3 x 4 are 12"));
    assert!(message(counts(&[u32::MAX, u32::MAX])).contains("add up to 8589934590"));
    assert!(message(Rle::of_counts(0, 4, vec![0])).contains("no pixels"));
    assert!(message(Rle::of_counts(1 << 16, 1 << 16, vec![])).contains("2^32 or more"));
    assert!(message(Rle::of_counts(usize::MAX, 2, vec![])).contains("2^32 or more"));

    assert_eq!(string("57").unwrap(), counts(&[5, 7]).unwrap());
    assert!(message(string("")).contains("add up to 0"));
    assert!(message(string("5h")).contains("cut short"));
    assert!(message(string("5~")).contains("character '~' at 1"));
    assert!(message(string("5é")).contains("character 'é' at 1"));
    assert!(message(string("ooooooooooo")).contains("character 'o' at 7"));
    assert!(message(string("O")).contains("run 0 of its string has length -1"));

    assert!(message(polygons(&[])).contains("no polygon"));
    assert!(message(polygons(&[vec![]])).contains("0 corners"));
    assert!(message(polygons(&[vec![0.0; 6], vec![0.0; 4]])).contains("2 corners"));
    assert!(message(polygons(&[vec![0.0; 7]])).contains("7 numbers, which are no pairs"));
    for far in [f64::NAN, f64::INFINITY, -1e9, 8.1] {
        let polygon = vec![0.0, 0.0, 1.0, 0.0, far, 1.0];
        assert!(message(polygons(&[polygon])).contains("number 4 of a polygon is"));
    }
    assert!(message(Rle::of_box([0.0, 0.0, f64::NAN, 1.0], 3, 4)).contains("NaN"));

    let other = Rle::of_mask(&[true; 12], 4, 3);
    let mask = counts(&[5, 7]).unwrap();
    assert!(mask.union(&other).unwrap_err().to_string().contains("3 x 4 pixels and 4 x 3"));
    assert!(mask.iou(&other, false).unwrap_err().to_string().contains("masks of one image"));
}

/// Two masks of the same size, of runs of about eight pixels.
fn two_masks() -> impl Strategy<Value = ([usize; 2], [Vec<bool>; 2])> {
    (1usize..40, 1usize..70).prop_flat_map(|(height, width)| {
        let runs = prop::collection::vec(0usize..16, height * width);
        let mask = runs.prop_map(move |runs| {
            let runs = runs.into_iter().enumerate();
            let bits = runs.flat_map(|(i, run)| std::iter::repeat_n(i % 2 == 1, run));
            let padded = bits.chain(std::iter::repeat(true));
            padded.take(height * width).collect::<Vec<bool>>()
        });
        (Just([height, width]), [mask.clone(), mask])
    })
}

proptest! {
    #[test]
    fn runs_say_what_bitmaps_say(([height, width], bits) in two_masks()) {
        let [a, b] = [0, 1].map(|i| Rle::of_mask(&bits[i], height, width));
        prop_assert_eq!(&a.to_mask(), &bits[0]);
        prop_assert_eq!(&Rle::of_string(&a.compressed(), height, width).unwrap(), &a);
        // Empty runs, before and in between, say nothing.
        let mut counts = vec![0, 0];
        a.counts().iter().for_each(|&count| counts.extend([count / 2, 0, count - count / 2]));
        prop_assert_eq!(&Rle::of_counts(height, width, counts).unwrap(), &a);

        let pairs = || bits[0].iter().zip(&bits[1]);
        let both = pairs().filter(|(a, b)| **a && **b).count() as f64;
        let either: Vec<bool> = pairs().map(|(a, b)| *a || *b).collect();
        let count = |bits: &[bool]| bits.iter().filter(|&&bit| bit).count();
        prop_assert_eq!(a.area(), count(&bits[0]));
        let iou = if both > 0.0 { both / count(&either) as f64 } else { 0.0 };
        prop_assert_eq!(a.iou(&b, false).unwrap(), iou);
        let crowd = if both > 0.0 { both / a.area() as f64 } else { 0.0 };
        prop_assert_eq!(a.iou(&b, true).unwrap(), crowd);
        prop_assert_eq!(a.union(&b).unwrap().to_mask(), either);

        let at = |[x, y]: [usize; 2]| bits[0][y * width + x];
        let pixels = (0..width).flat_map(|x| (0..height).map(move |y| [x, y]));
        let pixels: Vec<[usize; 2]> = pixels.filter(|&pixel| at(pixel)).collect();
        let range = |axis: usize| {
            let low = pixels.iter().map(|pixel| pixel[axis]).min()?;
            Some([low, pixels.iter().map(|pixel| pixel[axis]).max()? - low + 1])
        };
        let [[left, across], [top, down]] = [0, 1].map(|axis| range(axis).unwrap_or_default());
        prop_assert_eq!(a.bbox(), [left, top, across, down].map(|n| n as f64));
    }

    #[test]
    fn no_string_panics(text in "[0-p]{0,12}", height in 0usize..9, width in 0usize..9) {
        if let Ok(mask) = Rle::of_string(&text, height, width) {
            prop_assert_eq!(mask.to_mask().len(), height * width);
        }
    }

    #[test]
    fn no_polygon_panics(polygon in prop::collection::vec(-12.0..20.0, 0..20), height in 0usize..9, width in 0usize..9) {
        if let Ok(mask) = Rle::of_polygons(&[polygon], height, width) {
            prop_assert_eq!(mask.to_mask().len(), height * width);
        }
    }
}
