use conditioned_data::{Augment, Images, LoaderConfig};
use serde::Deserialize;
use serde::de::value::{Error, MapDeserializer};

use crate::{loader, numbered, values};

const SHAPE: [usize; 3] = [2, 4, 6];

/// Every image of `epochs` epochs as bytes, with its index in the set.
fn seen(images: &Images, augment: Augment, epochs: usize) -> Vec<(usize, Vec<u8>)> {
    let config = LoaderConfig { augment, ..LoaderConfig::training(4, 9) };
    let loader = loader(images, config);
    let batches = (0..epochs).flat_map(|epoch| loader.epoch(epoch));
    let size: usize = SHAPE.iter().product();
    let mut seen = Vec::new();
    for batch in batches.map(Result::unwrap) {
        let bytes: Vec<u8> = values(&batch).0.iter().map(|p| (p * 255.0).round() as u8).collect();
        let items = batch.labels.iter().map(|&label| label as usize);
        seen.extend(items.zip(bytes.chunks_exact(size).map(<[u8]>::to_vec)));
    }
    seen
}

/// The image after moving its content by (dy, dx), `fill` giving what lies outside.
fn moved(image: &[u8], dy: i64, dx: i64, edge: bool) -> Vec<u8> {
    let [c, h, w] = SHAPE.map(|size| size as i64);
    let mut out = Vec::new();
    for (channel, y, x) in
        (0..c).flat_map(|c| (0..h).flat_map(move |y| (0..w).map(move |x| (c, y, x))))
    {
        let (mut sy, mut sx) = (y - dy, x - dx);
        if edge {
            (sy, sx) = (sy.clamp(0, h - 1), sx.clamp(0, w - 1));
        }
        let inside = (0..h).contains(&sy) && (0..w).contains(&sx);
        out.push(if inside { image[((channel * h + sy) * w + sx) as usize] } else { 0 });
    }
    out
}

#[test]
fn flip_mirrors_the_width_and_nothing_else_half_of_the_time() {
    let images = numbered(20, SHAPE);
    let augment = Augment { flip: true, ..Augment::default() };
    let seen = seen(&images, augment, 10);
    let mut flips = 0;
    for (index, bytes) in &seen {
        let original = images.image(*index).unwrap();
        let mirror: Vec<u8> =
            original.chunks_exact(6).flat_map(|row| row.iter().rev().copied()).collect();
        assert!(bytes == original || *bytes == mirror, "image {index}");
        flips += usize::from(*bytes == mirror);
    }
    // 200 fair coins: 100 with deviation 7; five deviations.
    assert!((65..=135).contains(&flips), "{flips}");
}

#[test]
fn crop_and_shift_reach_every_offset_and_differ_in_what_fills() {
    let images = numbered(20, SHAPE);
    let crop = Augment { crop_padding: 1, ..Augment::default() };
    let shift = Augment { shift: 1, ..Augment::default() };
    for (augment, edge) in [(crop, false), (shift, true)] {
        let mut offsets = std::collections::BTreeSet::new();
        for (index, bytes) in seen(&images, augment, 10) {
            let original = images.image(index).unwrap();
            let all = (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dy, dx)));
            let found = all.into_iter().find(|&(dy, dx)| moved(original, dy, dx, edge) == bytes);
            offsets.insert(found.expect("a move by at most one pixel"));
        }
        assert_eq!(offsets.len(), 9);
    }
}

#[test]
fn the_fill_is_black_after_normalisation_too() {
    let images = Images::new("white", [1, 3, 3], 1, 1, vec![1; 9 * 16], vec![0; 16]).unwrap();
    let augment = Augment { crop_padding: 2, ..Augment::default() };
    let config = LoaderConfig { augment, ..LoaderConfig::training(16, 0) };
    let normalisation = conditioned_data::Normalisation { mean: vec![0.5], std: vec![0.25] };
    let device = candle_core::Device::Cpu;
    let loader = conditioned_data::Loader::new(images, config, &normalisation, &device).unwrap();
    let (pixels, _) = values(&loader.epoch(0).next().unwrap().unwrap());
    assert!(pixels.contains(&-2.0));
    assert!(pixels.iter().all(|&p| p == 2.0 || p == -2.0));
}

#[test]
fn unknown_fields_and_bad_values_are_errors() {
    let read = |field: &'static str, value: f64| {
        Augment::deserialize(MapDeserializer::<_, Error>::new([(field, value)].into_iter()))
    };
    assert_eq!(read("mixup", 0.8).unwrap(), Augment { mixup: 0.8, ..Augment::default() });
    assert!(read("mixxup", 0.8).unwrap_err().to_string().contains("mixxup"));

    let images = numbered(4, SHAPE);
    let check = |augment| {
        let config = LoaderConfig { augment, ..LoaderConfig::training(2, 0) };
        let images = std::sync::Arc::new(images.clone());
        let device = candle_core::Device::Cpu;
        conditioned_data::Loader::new(images, config, &crate::plain(2), &device)
            .unwrap_err()
            .to_string()
    };
    let none = Augment::default;
    assert!(check(Augment { crop_padding: 4, ..none() }).starts_with("crop_padding = 4: "));
    assert!(check(Augment { shift: 5, ..none() }).starts_with("shift = 5: "));
    assert!(check(Augment { mixup: -0.1, ..none() }).starts_with("mixup = -0.1: "));
    assert!(check(Augment { cutmix: f64::NAN, ..none() }).starts_with("cutmix = NaN: "));
    assert!(check(Augment { label_smoothing: 1.0, ..none() }).starts_with("label_smoothing = 1: "));
}
