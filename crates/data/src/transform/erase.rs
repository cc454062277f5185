//! Noise in a random box.
//!
//! Z. Zhong et al., *Random Erasing Data Augmentation*, arXiv 1708.04896. Code reference: `RandomErasing` in
//! `timm/data/random_erasing.py` with mode `pixel` and one box.

use rand::Rng;
use rand_distr::StandardNormal;

use super::rect::Rect;

/// Share of the area, and width over height, of the box.
const SHARE: [f64; 2] = [0.02, 1.0 / 3.0];
const RATIO: [f64; 2] = [0.3, 1.0 / 0.3];

/// With probability `probability` fills a box of normalised `pixels` (C, H, W) with standard normal noise.
///
/// The box is smaller than the image along both axes; when ten attempts are not, nothing is erased.
pub(crate) fn apply(
    probability: f64,
    [_, height, width]: [usize; 3],
    pixels: &mut [f32],
    rng: &mut impl Rng,
) {
    if rng.random::<f64>() >= probability {
        return;
    }
    let Some(Rect { top, left, height: rows, width: columns }) = draw(height, width, rng) else {
        return;
    };
    for plane in pixels.chunks_exact_mut(height * width) {
        for row in plane.chunks_exact_mut(width).skip(top).take(rows) {
            row[left..left + columns].fill_with(|| rng.sample(StandardNormal));
        }
    }
}

fn draw(height: usize, width: usize, rng: &mut impl Rng) -> Option<Rect> {
    let most = [height.saturating_sub(1), width.saturating_sub(1)];
    Rect::draw([height, width], most, SHARE, RATIO, rng)
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert_eq, proptest};

    use super::*;
    use crate::stream::{Purpose, stream};
    use crate::transform::fixture::{Mean, assert_mean};

    /// Means of timm 1.0.31 with their standard errors, by `fixture/print_distributions.py`: area,
    /// ln(width / height) and top, of 100,000 boxes.
    const TIMM: [([usize; 2], [Mean; 3]); 2] = [
        ([224, 224], [(0.17588, 0.00029), (0.00043, 0.00219), (0.28663, 0.00064)]),
        ([20, 32], [(0.16868, 0.00028), (0.07485, 0.00210), (0.25027, 0.00062)]),
    ];

    #[test]
    fn boxes_are_distributed_as_timms() {
        let mut rng = stream(0, 0, 0, Purpose::Image);
        for ([height, width], [area, ratio, top]) in TIMM {
            let boxes: Vec<Rect> =
                (0..100_000).filter_map(|_| draw(height, width, &mut rng)).collect();
            let check = |what: &str, value: &dyn Fn(&Rect) -> f64, mean: Mean| {
                let values: Vec<f64> = boxes.iter().map(value).collect();
                assert_mean(what, &values, mean);
            };
            let pixels = (height * width) as f64;
            check("area", &|b| (b.height * b.width) as f64 / pixels, area);
            check("ratio", &|b| (b.width as f64 / b.height as f64).ln(), ratio);
            check("top", &|b| b.top as f64 / height as f64, top);
        }
    }

    #[test]
    fn noise_is_standard_normal_and_comes_to_a_quarter() {
        let mut rng = stream(0, 0, 0, Purpose::Image);
        let (mut erased, mut noise) = (Vec::new(), Vec::new());
        for _ in 0..20_000 {
            let mut pixels = vec![f32::NAN; 3 * 12 * 12];
            apply(0.25, [3, 12, 12], &mut pixels, &mut rng);
            let new = pixels.iter().filter(|p| !p.is_nan()).map(|&p| f64::from(p));
            let before = noise.len();
            noise.extend(new);
            erased.push(f64::from(u8::from(noise.len() > before)));
        }
        assert_mean("share", &erased, (0.25, 0.0));
        assert_mean("mean", &noise, (0.0, 0.0));
        let squares: Vec<f64> = noise.iter().map(|z| z * z).collect();
        assert_mean("variance", &squares, (1.0, 0.0));
    }

    proptest! {
        #[test]
        fn the_same_box_of_every_plane_is_erased(
            height in 1_usize..20,
            width in 1_usize..20,
            seed: u64,
        ) {
            let mut pixels = vec![f32::NAN; 2 * height * width];
            apply(1.0, [2, height, width], &mut pixels, &mut stream(seed, 0, 0, Purpose::Image));
            let hidden: Vec<bool> = pixels.iter().map(|p| !p.is_nan()).collect();
            let (first, second) = hidden.split_at(height * width);
            prop_assert_eq!(first, second);
        }
    }
}
