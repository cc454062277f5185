use conditioned_data::{DIGITS_SIZES, ImageSet, Images, digits, hold_out, split};

use crate::numbered;

/// A set in memory.
fn memory(set: &ImageSet) -> &Images {
    match set {
        ImageSet::Memory(images) => images,
        ImageSet::Files(_) => panic!("in files"),
    }
}

/// Labels of several sets, sorted: with numbered images, which ones they hold.
fn members(sets: &[&ImageSet]) -> Vec<u32> {
    let mut labels: Vec<u32> = sets.iter().flat_map(|set| set.labels().to_vec()).collect();
    labels.sort_unstable();
    labels
}

#[test]
fn a_full_split_is_disjoint_and_complete() {
    let images = ImageSet::from(numbered(50, [1, 2, 2]));
    let splits = split(&images, 3, [30, 8, 12]).unwrap();
    let sizes = [splits.train.len(), splits.tune.len(), splits.test.len()];
    assert_eq!(sizes, [30, 8, 12]);
    let members = members(&[&splits.train, &splits.tune, &splits.test]);
    assert_eq!(members, (0..50).collect::<Vec<_>>());
    // Pixels moved together with their labels.
    for (i, &label) in splits.tune.labels().iter().enumerate() {
        assert_eq!(memory(&splits.tune).image(i), memory(&images).image(label as usize));
    }
}

#[test]
fn digits_split_is_complete_and_fixed() {
    let digits = ImageSet::from(digits().unwrap());
    let splits = split(&digits, 0, DIGITS_SIZES).unwrap();
    let rows = |sets: &[&ImageSet]| {
        let row =
            |set: &ImageSet, i: usize| (memory(set).image(i).unwrap().to_vec(), set.labels()[i]);
        let all = sets.iter().flat_map(|set| (0..set.len()).map(|i| row(set, i)));
        let mut rows: Vec<_> = all.collect();
        rows.sort_unstable();
        rows
    };
    assert_eq!(rows(&[&splits.train, &splits.tune, &splits.test]), rows(&[&digits]));
    assert_eq!(
        splits.test.hash().unwrap(),
        "915bc295f0939b751d1f985fe93e5d9a8b626e84b0991c35feadafb62aa926c6"
    );
}

#[test]
fn the_seed_decides_and_training_size_does_not_touch_the_rest() {
    let images = ImageSet::from(numbered(40, [1, 1, 1]));
    let full = split(&images, 1, [20, 10, 10]).unwrap();
    let small = split(&images, 1, [5, 10, 10]).unwrap();
    let other = split(&images, 2, [20, 10, 10]).unwrap();
    assert_eq!((&full.tune, &full.test), (&small.tune, &small.test));
    assert_eq!(full.train.take(5).unwrap(), small.train);
    assert_ne!(full.test, other.test);
    let message = split(&images, 1, [20, 10, 11]).unwrap_err().to_string();
    assert!(message.contains("cannot draw [11, 10, 20] disjoint images from 40"), "{message}");
    assert!(split(&images, 1, [usize::MAX, 1, 1]).is_err());
}

#[test]
fn held_out_images_come_from_the_training_file() {
    let (file, test) = (numbered(30, [1, 1, 2]).into(), ImageSet::from(numbered(4, [1, 1, 2])));
    let all = hold_out(&file, test.clone(), 5, None, 6).unwrap();
    assert_eq!(members(&[&all.train, &all.tune]), (0..30).collect::<Vec<_>>());
    assert_eq!((all.train.len(), &all.test), (24, &test));
    let limited = hold_out(&file, test.clone(), 5, Some(10), 6).unwrap();
    assert_eq!(limited.tune, all.tune);
    assert_eq!(limited.train, all.train.take(10).unwrap());
    assert!(hold_out(&file, test.clone(), 5, Some(25), 6).is_err());
    assert!(hold_out(&file, test, 5, None, 31).is_err());
}
