//! Random brightness, contrast and saturation, as torchvision's `ColorJitter` with timm's one number.

use image::RgbImage;
use rand::Rng;
use rand::seq::SliceRandom;

use super::colour::{brightness, contrast, saturation};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Brightness,
    Contrast,
    Saturation,
}

/// Changes brightness, contrast and saturation in random order, each by its factor of
/// `U(max(0, 1 - jitter), 1 + jitter)`; 0 is off.
pub(crate) fn apply(jitter: f64, image: &mut RgbImage, rng: &mut impl Rng) {
    if jitter == 0.0 {
        return;
    }
    for (change, factor) in draw(jitter, rng) {
        match change {
            Change::Brightness => brightness(image, factor),
            Change::Contrast => contrast(image, factor),
            Change::Saturation => saturation(image, factor),
        }
    }
}

fn draw(jitter: f64, rng: &mut impl Rng) -> [(Change, f32); 3] {
    let low = (1.0 - jitter).max(0.0);
    let mut changes = [Change::Brightness, Change::Contrast, Change::Saturation];
    changes.shuffle(rng);
    changes.map(|change| (change, (low + (1.0 + jitter - low) * rng.random::<f64>()) as f32))
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::stream::{Purpose, stream};
    use crate::transform::fixture::assert_mean;

    #[test]
    fn factors_are_uniform_and_any_change_is_first() {
        for (jitter, low, high) in [(0.4, 0.6, 1.4), (2.0, 0.0, 3.0)] {
            let mut rng = stream(0, 0, 0, Purpose::Image);
            let draws: Vec<_> = (0..50_000).map(|_| draw(jitter, &mut rng)).collect();
            for (place, change) in
                [Change::Brightness, Change::Contrast, Change::Saturation].into_iter().enumerate()
            {
                let first: Vec<f64> =
                    draws.iter().map(|draw| f64::from(u8::from(draw[0].0 == change))).collect();
                let factors: Vec<f64> = draws.iter().map(|draw| f64::from(draw[place].1)).collect();
                let squares: Vec<f64> = factors.iter().map(|f| f * f).collect();
                assert_mean("first", &first, (1.0 / 3.0, 0.0));
                assert_mean("factor", &factors, ((low + high) / 2.0, 0.0));
                let square = (low * low + low * high + high * high) / 3.0;
                assert_mean("its square", &squares, (square, 0.0));
            }
        }
    }

    #[test]
    fn no_jitter_changes_and_draws_nothing() {
        let mut image = RgbImage::from_pixel(2, 2, Rgb([10, 200, 30]));
        let mut rng = stream(0, 0, 0, Purpose::Image);
        apply(0.0, &mut image, &mut rng);
        assert!(image.pixels().all(|pixel| pixel.0 == [10, 200, 30]));
        assert_eq!(rng, stream(0, 0, 0, Purpose::Image));
        apply(0.4, &mut image, &mut rng);
        assert!(image.pixels().all(|pixel| pixel.0 != [10, 200, 30]));
    }
}
