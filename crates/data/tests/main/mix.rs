use conditioned_data::{Augment, Batch, Images, LoaderConfig};

use crate::{loader, numbered, values};

const SHAPE: [usize; 3] = [2, 5, 7];
const SIZE: usize = 2 * 5 * 7;
const PLANE: usize = 5 * 7;

/// Batches of seven images (one its own partner) in the set's order, over many epochs.
fn batches(images: &Images, augment: Augment) -> Vec<Batch> {
    let config = LoaderConfig { augment, ..LoaderConfig::evaluation(7) };
    let loader = loader(images, config);
    (0..40).flat_map(|epoch| loader.epoch(epoch)).map(Result::unwrap).collect()
}

fn original(images: &Images, i: usize) -> Vec<f32> {
    images.image(i).unwrap().iter().map(|&p| f32::from(p) / 255.0).collect()
}

/// The weight of the own label, checked: rows sum to 1 and hold lambda and 1 - lambda in the two
/// places that they should.
fn lambda(targets: &[f32], i: usize) -> f32 {
    let row = &targets[i * 7..(i + 1) * 7];
    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
    let partner = 6 - i;
    let rest = row.iter().enumerate().filter(|&(k, _)| k != i && k != partner);
    assert!(rest.map(|(_, &t)| t).all(|t| t == 0.0), "{row:?}");
    row[i]
}

#[test]
fn mixup_is_a_convex_combination_with_the_mirror_image_of_the_batch() {
    let images = numbered(7, SHAPE);
    let mut lambdas = Vec::new();
    for batch in batches(&images, Augment { mixup: 0.8, ..Augment::default() }) {
        let (pixels, targets) = values(&batch);
        lambdas.push(lambda(&targets, 0));
        for i in 0..7 {
            let own = lambda(&targets, i);
            assert!(i == 3 || own == lambdas[lambdas.len() - 1]);
            let (a, b) = (original(&images, i), original(&images, 6 - i));
            for (p, (a, b)) in pixels[i * SIZE..].iter().zip(a.iter().zip(&b)) {
                assert!((p - (own * a + (1.0 - own) * b)).abs() < 1e-6);
            }
        }
        assert_eq!(lambda(&targets, 3), 1.0);
        assert_eq!(pixels[3 * SIZE..4 * SIZE], original(&images, 3));
    }
    let mean = lambdas.iter().sum::<f32>() / lambdas.len() as f32;
    // Beta(0.8, 0.8) has mean 1/2 and deviation 0.31; 40 draws, five deviations of the mean.
    assert!((mean - 0.5).abs() < 0.25, "{mean}");
    assert!(lambdas.iter().any(|&x| x < 0.2) && lambdas.iter().any(|&x| x > 0.8));
}

#[test]
fn cutmix_exchanges_one_box_and_targets_match_its_area() {
    let images = numbered(7, SHAPE);
    for batch in batches(&images, Augment { cutmix: 1.0, ..Augment::default() }) {
        let (pixels, targets) = values(&batch);
        let mut first_box = None;
        for i in [0, 1, 2, 4, 5, 6] {
            let (own, other) = (original(&images, i), original(&images, 6 - i));
            let differs: Vec<usize> = (0..SIZE).filter(|&p| own[p] != other[p]).collect();
            assert_eq!(differs.len(), SIZE, "the test needs images that differ everywhere");
            let item = &pixels[i * SIZE..(i + 1) * SIZE];
            let cut: Vec<usize> = (0..SIZE).filter(|&p| item[p] == other[p]).collect();
            assert!((0..SIZE).all(|p| item[p] == own[p] || item[p] == other[p]));
            assert_rectangle(&cut);
            assert_eq!(first_box.get_or_insert_with(|| cut.clone()), &cut);
            let area = cut.len() as f32 / SIZE as f32;
            assert!((lambda(&targets, i) - (1.0 - area)).abs() < 1e-6);
        }
        assert_eq!(lambda(&targets, 3), 1.0);
    }
}

/// The same full rectangle in both channels.
fn assert_rectangle(cut: &[usize]) {
    let plane: Vec<usize> = cut.iter().copied().filter(|&p| p < PLANE).collect();
    let other: Vec<usize> =
        cut.iter().copied().filter(|&p| p >= PLANE).map(|p| p - PLANE).collect();
    assert_eq!(plane, other);
    let rows: std::collections::BTreeSet<_> = plane.iter().map(|p| p / 7).collect();
    let columns: std::collections::BTreeSet<_> = plane.iter().map(|p| p % 7).collect();
    assert_eq!(rows.len() * columns.len(), plane.len());
    for set in [rows, columns] {
        let ends = set.first().zip(set.last());
        assert!(ends.is_none_or(|(first, last)| last - first + 1 == set.len()));
    }
}

#[test]
fn with_both_each_batch_takes_one() {
    let images = numbered(7, SHAPE);
    let augment = Augment { mixup: 0.8, cutmix: 1.0, ..Augment::default() };
    let is_cutmix = |batch: &Batch| {
        let (pixels, _) = values(batch);
        let (own, other) = (original(&images, 0), original(&images, 6));
        (0..SIZE).all(|p| pixels[p] == own[p] || pixels[p] == other[p])
    };
    let cutmixes = batches(&images, augment).iter().filter(|batch| is_cutmix(batch)).count();
    // 40 fair coins: 20 with deviation 3.2; four deviations.
    assert!((8..=32).contains(&cutmixes), "{cutmixes}");
}

#[test]
fn smoothing_spreads_eps_and_mixes_with_the_targets() {
    let images = numbered(7, SHAPE);
    let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
    let smooth = Augment { label_smoothing: 0.1, ..Augment::default() };
    let (_, targets) = values(&batches(&images, smooth.clone())[0]);
    for (i, &t) in targets.iter().enumerate() {
        let expected = if i / 7 == i % 7 { 0.9 + 0.1 / 7.0 } else { 0.1 / 7.0 };
        assert!(close(t, expected), "{t} {expected}");
    }
    for batch in batches(&images, Augment { mixup: 1.0, ..smooth }) {
        let (_, targets) = values(&batch);
        let row = &targets[..7];
        assert!(close(row.iter().sum(), 1.0) && close(row[0] + row[6], 0.9 + 0.2 / 7.0));
    }
}
