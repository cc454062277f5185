use conditioned_data::{DIGITS_SIZES, LoaderConfig, Normalisation, digits};

use crate::{loader, values};

#[test]
fn all_1797_digits_are_there() {
    let digits = digits().unwrap();
    assert_eq!((digits.len(), digits.shape(), digits.classes()), (1797, [1, 8, 8], 10));
    assert_eq!((digits.name(), digits.white()), ("UCI digits", 16));
    let mut counts = [0; 10];
    digits.labels().iter().for_each(|&label| counts[label as usize] += 1);
    assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    assert_eq!(digits.pixels().iter().max(), Some(&16));
    assert_eq!(DIGITS_SIZES.iter().sum::<usize>(), digits.len());
    assert_eq!(digits.hash(), "5aae3ce5d55911a991201c1498d06fded8ed9df5c21f21948d477866cdef4fa1");
}

#[test]
fn the_first_picture_stands_upright() {
    let digits = digits().unwrap();
    // The published first row of the file, a zero: the stroke of its top row leans right.
    assert_eq!(digits.labels()[0], 0);
    assert_eq!(
        digits.image(0).unwrap()[..16],
        [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0]
    );
    let batch = loader(&digits, LoaderConfig::evaluation(3)).epoch(0).next().unwrap().unwrap();
    let (pixels, _) = values(&batch);
    let rows: Vec<u8> = pixels[..64].iter().map(|p| (p * 16.0) as u8).collect();
    assert_eq!(rows, digits.image(0).unwrap());
}

#[test]
fn normalised_training_images_have_mean_0_and_deviation_1() {
    let digits = digits().unwrap();
    let normalisation = Normalisation::measure(&digits).unwrap();
    assert!((normalisation.mean[0] - 0.305_26).abs() < 1e-4, "{normalisation:?}");
    let images = std::sync::Arc::new(digits);
    let config = LoaderConfig::evaluation(1797);
    let device = candle_core::Device::Cpu;
    let loader = conditioned_data::Loader::new(images, config, &normalisation, &device).unwrap();
    let (pixels, _) = values(&loader.epoch(0).next().unwrap().unwrap());
    let n = pixels.len() as f64;
    let mean = pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / n;
    let variance = pixels.iter().map(|&p| (f64::from(p) - mean).powi(2)).sum::<f64>() / n;
    // Means of f32 values, each right to about 1e-7.
    assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-6, "{mean} {variance}");
}
