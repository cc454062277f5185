use std::time::Instant;

use conditioned_data::{Example, Examples, Shapes};
use proptest::prelude::*;

const HASH: &str = "d9b49dd0f6a62f9461278a72a2dbe6fa632693d9a0cd6ea1fb147d559cfda626";

fn draw(shapes: Shapes, seed: u64, count: usize) -> Vec<Example> {
    let images = shapes.images(seed, 0..count).unwrap();
    (0..count).map(|index| images.example(index).unwrap()).collect()
}

/// Pixels of a mask as (row, column).
fn points(example: &Example, object: usize) -> Vec<[usize; 2]> {
    let mask = example.instances[object].mask.to_mask();
    let set = (0..mask.len()).filter(|&at| mask[at]);
    set.map(|at| [at / example.width, at % example.width]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_object_is_seen_and_its_box_is_tight(seed: u64, side in 32usize..130, objects in 0usize..12) {
        let shapes = Shapes { side, objects: [objects, objects] };
        for example in draw(shapes, seed, 3) {
            prop_assert_eq!([example.height, example.width], [side; 2]);
            prop_assert_eq!(example.pixels.len(), side * side * 3);
            prop_assert!(example.instances.len() <= objects);
            let mut taken = vec![false; side * side];
            for (number, instance) in example.instances.iter().enumerate() {
                let points = points(&example, number);
                prop_assert!(points.len() >= 12 && instance.area == points.len() as f64);
                let [left, top, wide, high] = instance.bbox.map(|x| x as usize);
                let bounds = |axis: usize| {
                    let along = points.iter().map(|point| point[axis]);
                    (along.clone().min().unwrap(), along.max().unwrap() + 1)
                };
                prop_assert_eq!(bounds(0), (top, top + high));
                prop_assert_eq!(bounds(1), (left, left + wide));
                for [y, x] in points {
                    prop_assert!(!std::mem::replace(&mut taken[y * side + x], true), "two objects in a pixel");
                }
            }
        }
    }
}

#[test]
fn an_image_depends_on_settings_seed_and_index_alone() {
    let images = Shapes::default().images(3, 5..25).unwrap();
    assert_eq!(images.len(), 20);
    let all = draw(Shapes::default(), 3, 25);
    assert_eq!(images.example(7).unwrap(), all[12]);
    assert_eq!(images.example(7).unwrap(), all[12]);
    assert_ne!(draw(Shapes::default(), 4, 1)[0].pixels, all[0].pixels);
    let mut ids: Vec<u64> = all.iter().flat_map(|e| e.instances.iter().map(|i| i.id)).collect();
    assert!(ids.is_sorted() && ids[0] > 0);
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count);
    let error = images.example(20).unwrap_err().to_string();
    assert!(error.contains("index 20 is past the end of 20 images"), "{error}");
    // A change of drawing or draws would change every recorded result: it shows here.
    let mut hasher = blake3::Hasher::new();
    for example in draw(Shapes::default(), 0, 100) {
        hasher.update(&example.pixels);
        hasher.update(format!("{:?}", example.instances).as_bytes());
    }
    assert_eq!(hasher.finalize().to_hex().as_str(), HASH);
}

#[test]
fn images_have_the_laws_that_the_page_states() {
    let examples = draw(Shapes::default(), 1, 4000);
    let n = examples.len() as f64;
    // Four standard deviations of a share p: one check in 16,000 would fail by chance.
    let near = |found: f64, p: f64, n: f64| (found - p).abs() < 4.0 * (p * (1.0 - p) / n).sqrt();
    let share = |objects: usize| {
        examples.iter().filter(|e| e.instances.len() == objects).count() as f64 / n
    };
    assert!(near(share(0), 1.0 / 32.0, n), "{} are empty", share(0));
    // One object is never left out, and of six there is mostly room for all.
    assert!(near(share(1), 31.0 / 32.0 / 6.0, n), "{} have one", share(1));
    assert!((0.14..0.18).contains(&share(6)), "{} have six", share(6));
    assert_eq!(examples.iter().map(|e| e.instances.len()).max(), Some(6));

    let objects: Vec<_> = examples.iter().flat_map(|e| &e.instances).collect();
    let count = objects.len() as f64;
    for kind in 0..4 {
        let of_kind = objects.iter().filter(|object| object.category == kind).count() as f64;
        // A little more than the counting error: large kinds find room less often.
        assert!((of_kind / count - 0.25).abs() < 0.02, "{kind}: {of_kind} of {count}");
    }
    // The largest circle has a diameter of half the side.
    let most = std::f64::consts::PI * 16.0 * 16.0;
    assert!(objects.iter().all(|o| (12.0..most * 1.01).contains(&o.area)));

    // The three sizes of COCO, 32² and 96² pixels apart.
    let large = draw(Shapes { side: 256, ..Shapes::default() }, 1, 100);
    let areas: Vec<f64> = large.iter().flat_map(|e| &e.instances).map(|i| i.area).collect();
    let of = |low: f64, high: f64| {
        areas.iter().filter(|&&area| low <= area && area < high).count() as f64 / areas.len() as f64
    };
    let sizes = [of(0.0, 1024.0), of(1024.0, 9216.0), of(9216.0, f64::MAX)];
    assert!(sizes.iter().all(|&share| share > 0.01), "{sizes:?}");
}

#[test]
fn what_cannot_be_drawn_is_named() {
    for (field, shapes) in [
        ("side", Shapes { side: 31, ..Shapes::default() }),
        ("side", Shapes { side: 1025, ..Shapes::default() }),
        ("objects", Shapes { objects: [3, 2], ..Shapes::default() }),
        ("objects", Shapes { objects: [0, 101], ..Shapes::default() }),
    ] {
        let message = shapes.images(0, 0..1).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{field} = ")), "{message}");
    }
    let message = Shapes::default().images(0, 0..usize::MAX).unwrap_err().to_string();
    assert!(message.starts_with("range.end = "), "{message}");
    let message = serde_json::from_str::<Shapes>(r#"{"sides": 64}"#).unwrap_err().to_string();
    assert!(message.contains("sides"), "{message}");
}

#[test]
#[ignore = "prints how fast images are drawn"]
fn rate() {
    for side in [64, 128, 320] {
        let (start, count) = (Instant::now(), 2000);
        let examples = draw(Shapes { side, ..Shapes::default() }, 0, count);
        let seconds = start.elapsed().as_secs_f64();
        let objects: usize = examples.iter().map(|e| e.instances.len()).sum();
        eprintln!("{side}: {:.0} a second, {objects} objects in {count}", count as f64 / seconds);
    }
}
